"""How much is served before a given request comes to its turn."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from opta_lmx.core.principal import Caller, Lane
from opta_lmx.scheduling.order import Order
from opta_lmx.scheduling.pace import Pace, answer_left, believed, still_to_come
from opta_lmx.scheduling.retry import MAX_RETRY_S
from opta_lmx.scheduling.rules import Position
from opta_lmx.scheduling.shares import Share
from opta_lmx.scheduling.tickets import Ticket


class Load(NamedTuple):
    """Requests: what they cost, how long they hold a slot (s), and how many there are."""

    cost: float = 0.0
    seconds: float = 0.0
    requests: float = 0.0

    def plus(self, other: "Load", part: float = 1.0) -> "Load":
        """Add another load, or a part of it."""
        return Load(
            self.cost + part * other.cost,
            self.seconds + part * other.seconds,
            self.requests + part * other.requests,
        )


NOTHING = Load()
_LEAST_S = 0.001
_ROUNDS = 3
"""How often an estimate is made again with those who come while it lasts."""
Pending = Mapping[Share, Load]
"""What running rows have yet to cause, by counter."""
Queued = Callable[[Share], Load]
"""What waits below a counter."""


class Rival(NamedTuple):
    """What an estimate needs to know of a counter beside the one that it is made for.

    Attributes:
        share: the counter.
        start: where it stands, what its running rows have yet to cause counted.
        weight: its weight.
        half: half of what one of its requests costs: they are served whole, so the last one goes
            beyond a level by that.
        cost: of those that wait or are to come back; so are `seconds` (of slots) and `requests`.
        ready: how many are ready.
        flow_cost: what came lately (per s); `flow_s` in seconds of slots.
    """

    share: Share
    start: float
    weight: float
    half: float
    cost: float
    seconds: float
    requests: float
    ready: int
    flow_cost: float
    flow_s: float


class Scene:
    """One moment, for all estimates that are made at it: each counter is looked at once.

    Args:
        now: the time (s).
        slots: how many there are.
        soon: what running rows have yet to do.
        queued: what waits below a counter.
    """

    def __init__(self, now: float, slots: int, soon: Pending, queued: Queued) -> None:
        self.slots = slots
        self.soon = soon
        self.now = now
        self._queued = queued
        self._rivals: dict[Share, list[Rival]] = {}

    def rivals(self, parent: Share) -> list[Rival]:
        """Those below a counter that have anything waiting, or have had lately."""
        found = self._rivals.get(parent)
        if found is not None:
            return found
        found = self._rivals[parent] = []
        first, now, soon = parent.first_entry(), self.now, self.soon
        for child in parent.children.values():
            cost, seconds, requests = self._queued(child)
            flow_cost, flow_s = child.inflow(now)
            if cost <= 0 >= flow_cost:
                continue
            start, weight = child.entry(first), child.weight
            if child in soon:
                start += soon[child].cost / weight
            half = cost / requests / 2 if requests > 1 else cost / 2
            load = (half, cost, seconds, requests, child.ready)
            found.append(Rival(child, start, weight, *load, flow_cost, flow_s))
        return found

    def level(self, share: Share, cost: float) -> float:
        """Where a counter stands when that much more of it has been served, and its rows have."""
        return share.entry() + (self.soon.get(share, NOTHING).cost + cost) / share.weight


def pending(rows: Iterable[tuple[Share, Load]]) -> dict[Share, Load]:
    """Add up what running rows have yet to cause, for their clients and all above."""
    total: dict[Share, Load] = {}
    for leaf, load in rows:
        for share in leaf.upwards():
            total[share] = total.get(share, NOTHING).plus(load)
    return total


def ahead_of(share: Share, own: Load, scene: Scene, seconds: float) -> list[Load]:
    """What goes before, at each level from a counter up to all lanes; it starts with `own`.

    Everybody is served in proportion to weight, from where the counters stand: a sibling gets
    what lifts it to the level at which this one's turn comes, as far as its requests last, and
    those that it is likely to add.

    Args:
        share: the counter.
        own: what goes before within it.
        scene: when.
        seconds: how long others go on to come, at the rate they came lately.
    """
    found = [own]
    for below in reversed(share.path):
        assert below.parent is not None
        cost, slot_s, requests = found[-1]
        level = scene.level(below, cost)
        for rival in scene.rivals(below.parent):
            other, start, weight, half, most, most_s, count, ready, flow_cost, flow_s = rival
            due = (level - start) * weight
            if due <= 0 or other is below:
                continue
            if most > 0:
                due += half
                part = due / most if due < most else 1.0
                cost += part * most
                slot_s += part * most_s
                if ready:
                    requests += min(ready, part * count)
            if seconds and due > most and flow_cost > 0:
                part = min(seconds, (due - most) / flow_cost)
                cost += part * flow_cost
                slot_s += part * flow_s
        found.append(Load(cost, slot_s, requests))
    return found


def meeting(parts: list[tuple[float, float]], number: float) -> float:
    """Seconds until several together have had so many turns.

    Args:
        parts: when each has had all of its turns (s), and how many these are.
        number: how many turns; no more than all of theirs.
    """
    done, rate = 0.0, sum(turns / seconds for seconds, turns in parts)
    for seconds, turns in sorted(parts):
        if done + rate * seconds >= number:
            break
        done, rate = done + turns, rate - turns / seconds
    else:
        return max(seconds for seconds, _ in parts)
    return (number - done) / rate


class Forecast:
    """Says when turns come.

    Args:
        order: who waits.
        pace: how fast the model serves.
        answer_price: the cost of one token of answer.
    """

    def __init__(self, order: Order, pace: Pace, answer_price: float) -> None:
        self._order = order
        self._pace = pace
        self._answer_price = answer_price
        self.outside: dict[Share, int] = {}
        """Requests that were refused and are to come back, by counter."""

    def answer(self, ticket: Ticket) -> Load:
        """What a ticket's answer has yet to cause, judged by its client's, its key's, or all."""
        return self._left(ticket, self._pace.token_s.value)

    def _left(self, ticket: Ticket, token_s: float) -> Load:
        *_, key, client = ticket.share.path
        average = believed(client.answer, key.answer, self._pace.answer)
        tokens = answer_left(average, ticket.produced, ticket.work)
        return Load(tokens * self._answer_price, tokens * token_s, 1.0)

    def _row(self, row: Ticket, now: float) -> tuple[Share, Load]:
        """What a running row has yet to cause, its prompt's time too where that still lasts.

        It is under way, so its own pace counts beside that of those that have ended.
        """
        if row.stint:
            token_s = self._pace.token_s.blend(now - row.first_at, row.stint)
            return row.share, self._left(row, token_s)
        usual_s = 0.0 if row.produced else row.paid * self._pace.prompt_s.value
        prompt_s = still_to_come(usual_s, now - row.granted_at)
        return row.share, self.answer(row).plus(Load(0.0, prompt_s))

    def turn(
        self, caller: Caller, before: list[Ticket], rows: Iterable[Ticket], slots: int, now: float
    ) -> Position:
        """When the turn comes of a request whose client has these `before` it.

        Args:
            caller: whose request.
            before: ready tickets of the same client that go first.
            rows: who holds slots.
            slots: how many there are.
            now: the time (s).
        """
        cost = sum(one.expected for one in before)
        own = Load(cost, sum(one.expected_s for one in before), len(before))
        return self._turn(self._order.known(caller), own, caller, self.scene(rows, slots, now))

    def lanes(self) -> list[Share]:
        """The counters of all lanes."""
        return [state.share for state in self._order.lanes]

    def key(self, caller: Caller) -> list[Share]:
        """The counters of a caller's key, in every lane where it has one."""
        who, found = caller.principal, list[Share]()
        for lane in self.lanes():
            tenant = lane.children.get(who.tenant)
            key = None if tenant is None else tenant.children.get(who.key)
            found += [] if key is None else [key]
        return found

    def turns_s(
        self, caller: Caller, counters: Iterable[Share], number: int, scene: Scene
    ) -> float:
        """Seconds until `number` of those who wait below some counters have had their turns.

        Each counter has as many turns as it has requests, and no more while others still have
        theirs. Beyond those who wait now, others like them are thought to come.

        Args:
            caller: who asks.
            counters: its key in several lanes, or several lanes.
            number: how many, at least one.
            scene: when.
        """
        found = [(share, count) for share in counters if (count := self._count(share))]
        found = found or [(self._order.known(caller), float(number))]
        more = max(1.0, number / sum(count for _, count in found))
        parts: list[tuple[float, float]] = []
        for share, count in found:
            part = min(float(number), count * more)
            of_lane = msgspec.structs.replace(caller, lane=Lane(share.path[0].name))
            own = NOTHING.plus(self._usual(share), max(0.0, part - 1))
            parts.append((max(_LEAST_S, self._turn(share, own, of_lane, scene).estimate_s), part))
        return meeting(parts, number)

    def _count(self, share: Share) -> int:
        """How many wait below a counter, or were refused and are to come back."""
        return share.ready + self.outside.get(share, 0)

    def _queued(self, share: Share) -> Load:
        """What waits below a counter, and what was refused and is to come back."""
        back = self.outside.get(share)
        if not back:
            return Load(share.backlog, share.backlog_s, share.ready)
        if not share.ready:
            return NOTHING.plus(self._usual(share), back)
        times = 1 + back / share.ready
        return Load(share.backlog * times, share.backlog_s * times, share.ready + back)

    def _usual(self, share: Share) -> Load:
        """What one request of those below a counter is expected to cause."""
        if share.ready:
            return NOTHING.plus(Load(share.backlog, share.backlog_s, share.ready), 1 / share.ready)
        cost = self._pace.answer.value * self._answer_price
        return Load(cost, self._pace.request_s.value, 1.0)

    def scene(self, rows: Iterable[Ticket], slots: int, now: float) -> Scene:
        """What estimates at one moment start from."""
        return Scene(now, slots, pending(self._row(row, now) for row in rows), self._queued)

    def _turn(self, share: Share, own: Load, caller: Caller, scene: Scene) -> Position:
        """When the turn comes of what goes after `own`, of all that is below a counter."""
        slots, soon = scene.slots, scene.soon
        found, came_s = Position(0, 0.0), -1.0
        caps = [min(cap, slots) for cap in self._order.caps(caller, slots)]
        for _ in range(_ROUNDS):
            before_s, came_s = came_s, min(MAX_RETRY_S, found.estimate_s)
            if came_s == before_s:
                break
            levels = ahead_of(share, own, scene, came_s)
            # One of the rows must end before anybody's turn comes.
            turns_s = [
                (level.seconds + soon.get(one, NOTHING).seconds / cap) / cap
                for level, one, cap in zip(
                    levels, share.upwards(), caps[-len(levels) :], strict=True
                )
            ]
            found = Position(round(levels[-1].requests), max(turns_s))
        return found
