"""What a simulated line is watched for: fairness, waits, idle slots, honest refusals.

The account is the simulation's own; nothing here asks the line what it thinks.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations

from opta_lmx.core.principal import Caller, Lane
from tests.support.fleet_places import PlacesWatch
from tests.support.fleet_scenarios import Scenario

Client = tuple[Lane, str, str]


def name_of(caller: Caller) -> Client:
    """A client of a key in a lane."""
    return caller.lane, caller.principal.key, caller.client


class Gap:
    """Service of one side less that of the other, while both always have something waiting."""

    def __init__(self) -> None:
        self.widest = 0.0
        self._low: float | None = None
        self._high: float | None = None

    def look(self, both: bool, difference: float) -> None:
        """Note the difference, or start anew."""
        if not both or self._low is None or self._high is None:
            self._low = self._high = difference if both else None
            return
        self._low, self._high = min(self._low, difference), max(self._high, difference)
        self.widest = max(self.widest, self._high - self._low)


@dataclass
class Seat:
    """A client's tickets and its service."""

    caller: Caller
    served: float = 0.0
    running: int = 0
    ready: dict[int, None] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)


class Watch:
    """Sees everything that happens to a scenario's requests."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.rules = scenario.rules
        self.slots = scenario.slots
        self.seats: dict[Client, Seat] = {}
        for one in scenario.asked:
            self.seats.setdefault(name_of(one.caller), Seat(one.caller))
        self.client_gaps, self.key_gaps = self._pairs()
        self.lane_wait: dict[Lane, float] = defaultdict(float)
        self._lane_since: dict[Lane, float | None] = dict.fromkeys(Lane)
        self.waits: list[tuple[Client, float, float]] = []
        """Seconds that clients waited for first grants, and what that may be at most."""
        self._due: dict[int, tuple[float, float]] = {}
        self.places = PlacesWatch(self.rules, self.slots)
        self.pauses = self.left_over = 0
        self.busy_s = self.lost_s = self.kept_s = self.away_s = 0.0
        self._started: set[int] = set()
        self._held: dict[object, int] = defaultdict(int)
        """Slots held, by lane, by key and by client of a key."""
        self._several = len({name[1] for name in self.seats}) > 1
        self.most_bytes = 0
        """What caches took at most, of what there is (parts of a key's cap count too)."""
        self.overfull: list[str] = []
        self.empty_s = 0.0
        """Seconds in which nothing ran though somebody waited."""

    def _pairs(self) -> tuple[dict[tuple[Client, Client], Gap], dict[tuple, Gap]]:
        clients = combinations(self.seats, 2)
        keys: dict[tuple[Lane, str], float] = {}
        for lane, key, client in self.seats:
            weight = self.seats[lane, key, client].caller.principal.weight
            keys[lane, key] = weight
        return (
            {(a, b): Gap() for a, b in clients if a[:2] == b[:2]},
            {
                (a, b): Gap()
                for a, b in combinations(keys, 2)
                if a[0] == b[0] and keys[a] == keys[b]
            },
        )

    # --- what happens ---------------------------------------------------------

    def entered(self, number: int, caller: Caller, call: object, now: float) -> None:
        self.seats[name_of(caller)].waiting.add(number)
        self.places.entered(call, caller, now)

    def ready(self, number: int, now: float, cost: float) -> None:
        seat = next(one for one in self.seats.values() if number in one.waiting)
        self._due[number] = (now, self._longest_wait(seat, cost))
        seat.ready[number] = None

    def granted(self, number: int, caller: Caller, now: float) -> None:
        seat = self.seats[name_of(caller)]
        del seat.ready[number]
        self._runs(seat, 1)
        self._lane_since[caller.lane] = None
        if number not in self._started:
            self._started.add(number)
            since, most = self._due[number]
            self.waits.append((name_of(caller), now - since, most))
            seat.waiting.discard(number)
            self.places.left(caller)

    def yielded(self, number: int, caller: Caller) -> None:
        seat = self.seats[name_of(caller)]
        self._runs(seat, -1)
        seat.ready[number] = None

    def stopped(self, number: int, caller: Caller) -> None:
        self._runs(self.seats[name_of(caller)], -1)

    def left(self, number: int, caller: Caller) -> None:
        seat = self.seats[name_of(caller)]
        seat.ready.pop(number, None)
        if number in seat.waiting:
            seat.waiting.discard(number)
            self.places.left(caller)

    def gone(self, caller: Caller) -> None:
        """A ticket is over."""
        self.places.gone(caller)

    def served(self, caller: Caller, cost: float) -> None:
        self.seats[name_of(caller)].served += cost

    def refused(self, call: object, caller: Caller, told: float, now: float, *, last: bool) -> None:
        self.places.refused(call, caller, told, now, last=last)

    def caches(self, rows: list[tuple[int, Caller]]) -> None:
        """The tokens that each running row holds, and whose it is."""
        cost, limit = self.scenario.kv, self.scenario.kv_bytes
        assert cost is not None
        sizes = [cost.at(tokens) for tokens, _ in rows]
        taken = sum(sizes)
        self.most_bytes = max(self.most_bytes, taken)
        if len(rows) > 1 and taken > limit - cost.peak:
            self.overfull.append(f"{taken} bytes of {limit}")
        owned: dict[str, list[int]] = defaultdict(list)
        for size, (_, caller) in zip(sizes, rows, strict=True):
            owned[caller.principal.key].append(size)
        for _, caller in rows:
            key, cap = caller.principal.key, caller.principal.budgets.kv_bytes
            if cap is not None and len(owned[key]) > 1 and sum(owned[key]) > cap:
                self.overfull.append(f"{key}: {sum(owned[key])} bytes of {cap}")

    # --- what is so -----------------------------------------------------------

    def passes(self, before: float, now: float) -> None:
        """Time goes by: count slots that serve, and those that do not though somebody waits."""
        span = now - before
        running = sum(self._held[lane] for lane in Lane)
        free = max(0, self.slots - running)
        self.away_s += span * min(free, self.places.away)
        self.busy_s += span * running
        if free:
            ready = sum(len(seat.ready) for seat in self.seats.values())
            self.empty_s += span if ready and not running else 0.0
            able = sum(len(seat.ready) for seat in self.seats.values() if self._able(seat))
            self.lost_s += span * min(free, able)
            self.kept_s += span * min(free, ready - able)

    def look(self, now: float) -> None:
        """Measure after everything that happened at this time."""
        backlogged = {
            name: bool(seat.ready) and not self._capped(seat) for name, seat in self.seats.items()
        }
        for (a, b), gap in self.client_gaps.items():
            both = backlogged[a] and backlogged[b]
            gap.look(both, self.seats[a].served - self.seats[b].served if both else 0.0)
        if self.key_gaps:
            self._look_at_keys(backlogged)
        self._look_at_lanes(now)

    def _look_at_keys(self, backlogged: dict[Client, bool]) -> None:
        waits: dict[tuple[Lane, str], bool] = defaultdict(bool)
        served: dict[tuple[Lane, str], float] = defaultdict(float)
        for (lane, key, client), seat in self.seats.items():
            waits[lane, key] |= backlogged[lane, key, client]
            served[lane, key] += seat.served
        for (a, b), gap in self.key_gaps.items():
            gap.look(waits[a] and waits[b], served[a] - served[b])

    def _look_at_lanes(self, now: float) -> None:
        able = {seat.caller.lane for seat in self.seats.values() if seat.ready and self._able(seat)}
        for lane in Lane:
            since = self._lane_since[lane]
            if lane not in able:
                self._lane_since[lane] = None
            elif since is None:
                self._lane_since[lane] = now
            else:
                self.lane_wait[lane] = max(self.lane_wait[lane], now - since)

    def _runs(self, seat: Seat, count: int) -> None:
        """Count slots that a client holds, for its key and its lane too."""
        who = seat.caller.principal.key
        seat.running += count
        self.places.running += count
        for held in (seat.caller.lane, who, (who, seat.caller.client)):
            self._held[held] += count

    def _capped(self, seat: Seat) -> bool:
        """True when this client, or its key, holds all it may, and that is not every slot."""
        key = seat.caller.principal.key
        client_cap, key_cap = self._client_cap(), self._key_cap(seat)
        client, held = self._held[key, seat.caller.client], self._held[key]
        return client_cap <= client < self.slots or key_cap <= held < self.slots

    def _client_cap(self) -> int:
        cap = self.rules.client_max_running or self.slots
        return cap if self.rules.preemptible else min(cap, max(1, self.slots - self.rules.reserve))

    def _key_cap(self, seat: Seat) -> int:
        cap = seat.caller.principal.max_running or self.slots
        if self.rules.preemptible or not self._several:
            return cap
        return min(cap, max(1, self.slots - self.rules.reserve))

    def _lane_cap(self, lane: Lane) -> int:
        return max(1, self.slots - self.rules.lanes[lane].spare)

    def _able(self, seat: Seat) -> bool:
        """True when no cap keeps this client's next request from running."""
        lane = seat.caller.lane
        return not self._capped(seat) and self._held[lane] < self._lane_cap(lane)

    # --- what may be ----------------------------------------------------------

    def bound(self) -> float:
        """The widest gap allowed: 2·(U + Q)."""
        return 2 * (self.scenario.unit + self.rules.quantum)

    def _longest_wait(self, seat: Seat, cost: float) -> float:
        """Seconds that a request may wait: what its client has before it, at its least share."""
        lane, key, _ = name_of(seat.caller)
        lanes = {name[0] for name in self.seats}
        keys = {
            name[1]: other.caller.principal.weight
            for name, other in self.seats.items()
            if name[0] is lane
        }
        clients = sum(1 for name in self.seats if name[:2] == (lane, key))
        weights = [rule.weight for rule in self.rules.lanes]
        share = weights[lane] / sum(weights[other] for other in lanes)
        share *= keys[key] / sum(keys.values()) / clients
        dearest = self.scenario.prompt_cost + 2 * self.scenario.answer_tokens
        before = cost + len(seat.ready) * dearest + 3 * self.bound()
        slots = min((limit for _, limit in self.scenario.limits), default=self.scenario.slots)
        slots = min(slots, self._least_rows(seat))
        return before / (slots * min(share, 1 / slots) * 2 * self.scenario.decode)

    def _least_rows(self, seat: Seat) -> int:
        """Rows that certainly have room together, and together with others of their key."""
        cost, asked = self.scenario.kv, self.scenario.asked
        if cost is None:
            return self.scenario.slots
        longest = max(cost.at(one.work.prompt + (one.work.most or 0)) for one in asked)
        cap = seat.caller.principal.budgets.kv_bytes or self.scenario.kv_bytes
        return max(1, min(cap, self.scenario.kv_bytes) // longest)

    def lane_bound(self) -> float:
        """Seconds that a lane may go without a grant: its ageing, and slots coming free."""
        return self.rules.ageing_s + len(Lane) * self.scenario.row_s

    def faults(self) -> list[str]:
        """What did not hold; empty for a good line."""
        return self._faults() if self.scenario.kv is None else self._cramped_faults()

    def _cramped_faults(self) -> list[str]:
        """Where memory is short: that is kept to, nobody starves, the machine never idles."""
        late = [(wait, most) for _, wait, most in self.waits if wait > most]
        found = [f"waited {wait:.1f} s, allowed {most:.1f}" for wait, most in late[:3]]
        found += self.overfull[:3]
        if self.empty_s > 1e-6:
            found.append(f"idle for {self.empty_s:.1f} s")
        if self.left_over:
            found.append(f"{self.left_over} requests never ended")
        return found

    def _faults(self) -> list[str]:
        found: list[str] = []
        for what, gaps in (("clients", self.client_gaps), ("keys", self.key_gaps)):
            widest = max((gap.widest for gap in gaps.values()), default=0.0)
            if widest > self.bound() + 1e-6:
                found.append(f"{what} {widest:.0f} apart, allowed {self.bound():.0f}")
        late = [(wait, most) for _, wait, most in self.waits if wait > most]
        found += [f"waited {wait:.1f} s, allowed {most:.1f}" for wait, most in late[:3]]
        found += [
            f"lane {lane.name} went {wait:.1f} s without a grant, allowed {self.lane_bound():.1f}"
            for lane, wait in self.lane_wait.items()
            if wait > self.lane_bound()
        ]
        if self.busy_s < 0.99 * (self.busy_s + self.lost_s):
            found.append(f"idle {self.lost_s:.1f} s beside {self.busy_s:.1f} s of work")
        if self.left_over:
            found.append(f"{self.left_over} requests never ended")
        return found
