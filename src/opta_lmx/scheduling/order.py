"""Whose turn it is: lanes, the shares below them, and slots that were promised."""

from collections.abc import Callable, Iterator

from opta_lmx.core.principal import Caller, Lane
from opta_lmx.scheduling.places import Places, Tally
from opta_lmx.scheduling.rules import LaneRule, LineRules
from opta_lmx.scheduling.shares import Share
from opta_lmx.scheduling.tickets import Ticket

_NO_CAP = 1_000_000


class LaneState:
    """One lane's counter, since when it has gone without a grant (s), and whether it may not."""

    __slots__ = ("barred", "rule", "share", "unserved_since")

    def __init__(self, rule: LaneRule, share: Share) -> None:
        self.rule = rule
        self.share = share
        self.unserved_since = 0.0
        self.barred = False

    @property
    def wants(self) -> bool:
        """True when it has somebody ready, and may have a slot."""
        return self.share.ready > 0 and not self.barred


class Order:
    """Orders the ready tickets.

    Args:
        rules: the policy.
        places: counts of what clients and keys hold.
    """

    def __init__(self, rules: LineRules, places: Places) -> None:
        self.rules = rules
        self._places = places
        self.root = Share(1.0)
        self.lanes = [
            LaneState(rules.lanes[lane], self.root.child(lane, rules.lanes[lane].weight))
            for lane in Lane
        ]
        self._promises: list[Share] = []
        """Clients for whom rows were asked to yield, in that order."""

    @property
    def ready(self) -> int:
        """Ready tickets."""
        return sum(state.share.ready for state in self.lanes)

    def leaf(self, caller: Caller) -> Share:
        """The counter of a caller's client, made when unknown."""
        who = caller.principal
        lane = self.lanes[caller.lane].share
        return lane.child(who.tenant, 1.0).child(who.key, who.weight).child(caller.client, 1.0)

    def known(self, caller: Caller) -> Share:
        """The counter of a caller's client, or the lowest above it that there is."""
        who = caller.principal
        share = self.lanes[caller.lane].share
        for name in (who.tenant, who.key, caller.client):
            child = share.children.get(name)
            if child is None:
                break
            share = child
        return share

    def insert(self, ticket: Ticket, now: float) -> None:
        """Add a ready ticket."""
        state = self.lanes[ticket.caller.lane]
        if not state.share.ready:
            state.unserved_since = now
        ticket.share.insert(ticket)

    def take(self, ticket: Ticket, now: float) -> None:
        """A slot goes to this ready ticket."""
        state = self.lanes[ticket.caller.lane]
        ticket.aged = now - state.unserved_since >= self.rules.ageing_s
        state.unserved_since = now
        share = ticket.share
        share.picked(self.rules.quantum)
        share.remove(ticket)
        kept = [one for one in self._promises if one.path[0] is state.share]
        if kept:
            self._withdraw(share if share in kept else kept[0])
        share.hold(1)

    def next(
        self, slots: int, now: float, passes: Callable[[Ticket], bool] | None = None
    ) -> Ticket | None:
        """Who gets a free slot: a lane that was promised one, one left waiting, the lowest.

        Only tickets that `passes` says yes to.
        """
        self._drop_promises()

        fits = self._fitting(slots)
        for state in self._by_turn(now):
            ticket = self._first(state, fits, passes)
            if ticket is not None:
                return ticket
        return None

    def _by_turn(self, now: float) -> list[LaneState]:
        promised = self._promises[0].path[0] if self._promises else None
        due = now - self.rules.ageing_s

        def turn(state: LaneState) -> tuple[bool, bool, float, float]:
            aged = state.unserved_since <= due
            since = state.unserved_since if aged else 0.0
            return state.share is not promised, not aged, since, state.share.used

        return sorted((one for one in self.lanes if one.wants), key=turn)

    def _first(
        self,
        state: LaneState,
        fits: Callable[[Ticket], bool],
        passes: Callable[[Ticket], bool] | None = None,
    ) -> Ticket | None:
        """Of those in a lane who are equally far behind: who was promised, or has most in cache."""
        found = state.share.contenders(self.rules.quantum, fits, passes)

        def rank(ticket: Ticket) -> tuple[float, ...]:
            return ticket.share not in self._promises, *_by_cache_then_share(ticket)

        return min(found, key=rank, default=None)

    def _fitting(self, slots: int) -> Callable[[Ticket], bool]:
        """A test that says whether the caps let a ticket's client have one more slot."""
        allowed: dict[tuple[Tally | None, Lane], int] = {}

        def fits(ticket: Ticket) -> bool:
            tally, lane = ticket.tally, ticket.caller.lane
            most = allowed.get((tally.owner, lane))
            if most is None:
                most = allowed[tally.owner, lane] = self._allowed(ticket, slots)
            return tally.running < most

        return fits

    def _allowed(self, ticket: Ticket, slots: int) -> int:
        """Slots that each client of a ticket's key may hold in its lane now."""
        client, key, _, lane, _ = self.caps(ticket.caller, slots)
        owner = ticket.tally.owner
        assert owner is not None
        full = owner.running >= key or ticket.share.path[0].running >= lane
        return 0 if full else client

    def caps(self, caller: Caller, slots: int) -> tuple[int, int, int, int, int]:
        """Most slots that a client may hold, its key, its tenant, its lane, and all."""
        rules, rule = self.rules, self.lanes[caller.lane].rule
        lane = max(1, slots - rule.spare) if rule.spare else _NO_CAP
        key = caller.principal.max_running or _NO_CAP
        client = rules.client_max_running or _NO_CAP
        if rules.reserve and (rules.always_reserve or not rules.preemptible):
            most = max(1, slots - rules.reserve)
            client = min(client, most)
            key = min(key, most) if self._places.several_keys else key
        return client, key, _NO_CAP, min(lane, rule.max_running or _NO_CAP), _NO_CAP

    # --- promises -------------------------------------------------------------

    def claimants(self, slots: int) -> Iterator[tuple[Ticket, float]]:
        """Who of each lane would go next and was promised nothing yet, and its patience (s)."""
        self._drop_promises()

        able = self._fitting(slots)

        def fits(ticket: Ticket) -> bool:
            return able(ticket) and ticket.share not in self._promises

        for state in self.lanes:
            if state.rule.patience_s is not None and state.wants:
                ticket = self._first(state, fits)
                if ticket is not None:
                    yield ticket, state.rule.patience_s

    def promise(self, share: Share) -> None:
        """A row was asked to yield so that this client, or one before it, can run."""
        self._promises.append(share)
        share.claim(1)

    def renew(self) -> None:
        """Every row that was asked to yield has: what was promised beyond that is void."""
        while self._promises:
            self._withdraw(self._promises[0])

    def _drop_promises(self) -> None:
        for share in [one for one in self._promises if not one.ready]:
            self._withdraw(share)

    def _withdraw(self, share: Share) -> None:
        self._promises.remove(share)
        share.claim(-1)


def _by_cache_then_share(ticket: Ticket) -> tuple[float, ...]:
    """Most in cache first, the lowest counters from above, who never ran, then the oldest."""
    _, tenant, key, client = ticket.share.path
    return (
        -ticket.work.cached,
        tenant.used,
        tenant.claims,
        key.used,
        key.claims,
        client.used,
        client.claims,
        ticket.granted > 0,
        ticket.order,
    )
