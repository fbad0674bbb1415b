"""The slots of one model: who has them, who would get the next one, who makes room."""

from collections.abc import Callable, Collection

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.kv_cost import KvCost
from opta_lmx.core.principal import Caller, Lane
from opta_lmx.scheduling.forecast import Forecast
from opta_lmx.scheduling.kv import AnswerLengths, KvLevels
from opta_lmx.scheduling.order import Order
from opta_lmx.scheduling.pace import Pace
from opta_lmx.scheduling.pausing import rows_to_pause, stop_rows
from opta_lmx.scheduling.places import Places
from opta_lmx.scheduling.room import Room
from opta_lmx.scheduling.rules import LineRules
from opta_lmx.scheduling.tickets import Phase, Ticket

_ENDLESS = 1 << 62
"""Bytes that nothing takes."""


class Slots:
    """The part of a `FairLine` that decides about slots, and about memory for caches.

    Args:
        rules: the policy.
        clock: time.

    Attributes:
        kv_used: bytes of the rows' caches, as the worker told last.
        shut: nobody begins.
    """

    def __init__(self, rules: LineRules, clock: Clock) -> None:
        self.rules = rules
        self.pace = Pace()
        self._clock = clock
        self._places = Places(rules)
        self._order = Order(rules, self._places)
        self._forecast = Forecast(self._order, self.pace, rules.prices.answer)
        self._tickets: dict[int, Ticket] = {}
        self._rows: dict[int, Ticket] = {}
        self._slots = 1
        self._limit: int | None = None
        self._lengths = AnswerLengths()
        self.room: Room | None = None
        """What their caches have; None where the slots alone bound them."""
        self._held_back: list[Ticket] = []
        """Who did not fit when a slot was last to be given."""
        self._stuck = False
        """Nobody was let in then, and nothing has changed since."""
        self._last = self._readied = self._granted = self._refused = self.kv_used = 0
        self.left_at = clock.monotonic()
        self.shut = False

    # --- what there is --------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Tickets that hold no slot, paused ones too."""
        return len(self._tickets) - len(self._rows)

    @property
    def running(self) -> int:
        """Tickets that hold a slot."""
        return len(self._rows)

    @property
    def slots(self) -> int:
        """Slots that may be held now: the worker's, or fewer where the limit is lower."""
        return self._slots if self._limit is None else min(self._slots, self._limit)

    @property
    def width(self) -> int:
        """Slots the worker has, however few of them may be held now."""
        return self._slots

    def set_slots(self, slots: int) -> None:
        """Say how many rows the worker can run; running ones are never cut."""
        self._slots = max(1, slots)
        self._stuck = False

    def set_limit(self, limit: int | None) -> None:
        """Let fewer run than the worker could, at least one; None lifts the limit."""
        self._limit = None if limit is None else max(1, limit)
        self._stuck = False

    def set_shut(self, shut: bool) -> None:
        """Let nobody begin, or all again; who has begun, and was paused, goes on in any case."""
        self.shut = shut
        self._stuck = False

    def set_preemptible(self, able: bool) -> None:
        """Say whether the engine can pause a row and let it go on later."""
        self.rules = self._order.rules = msgspec.structs.replace(self.rules, preemptible=able)

    def set_room(self, cost: KvCost | None, budget: int) -> None:
        """Say what rows take and may take together (bytes; 0: no bound) before any runs."""
        self.room, self._stuck = None, False
        if cost is not None:
            whole = cost.whole or not self.rules.preemptible
            cost = msgspec.structs.replace(cost, whole=whole)
            self.room = Room(cost, budget or _ENDLESS, self._lengths)

    def caller(self, number: int) -> Caller:
        """Whose ticket it is; nobody's in particular when it is gone."""
        ticket = self._tickets.get(number)
        return Caller() if ticket is None else ticket.caller

    def is_alone(self, number: int) -> bool:
        """True when a ticket holds the only slot of its key, and no job of the background does."""
        row = self._rows.get(number)
        if row is None or row.tally.owner is None or row.caller.lane is Lane.BACKGROUND:
            return False
        return row.tally.owner.running == 1

    @property
    def rows(self) -> Collection[Ticket]:
        """Tickets that hold a slot."""
        return self._rows.values()

    def bar(self, lane: Lane, *, barred: bool) -> None:
        """Give no slot to a lane until told otherwise."""
        self._order.lanes[lane].barred = barred
        self._stuck = False

    @property
    def levels(self) -> KvLevels:
        """What is reserved for caches of rows, of what there is."""
        if self.room is None or self.room.books.available >= _ENDLESS:
            return KvLevels()
        used = self.kv_used if self.running else 0
        return KvLevels(self.room.books.available, self.room.books.reserved, used)

    @property
    def memory_left(self) -> int | None:
        """Bytes that caches of rows do not claim; None where rows are not bounded by them."""
        return None if self.room is None else self.room.books.left

    @property
    def cramped(self) -> bool:
        """True when a row needs more room for its caches than there is."""
        return self.room is not None and bool(self.room.short)

    @property
    def under_way(self) -> bool:
        """True while anybody has begun who may go on, and is not over."""
        lanes = self._order.lanes
        return bool(self._rows) or any(
            one.granted and not lanes[one.caller.lane].barred for one in self._tickets.values()
        )

    # --- who is next ----------------------------------------------------------

    def upcoming(self) -> Ticket | None:
        """Who would get a free slot now; None without such a slot, or anybody to have it."""
        if self.running >= self.slots:
            return None
        now = self._clock.monotonic()
        if self.room is None:
            return self._order.next(self.slots, now, _has_begun if self.shut else None)
        return self._fitting(now)

    def _fitting(self, now: float) -> Ticket | None:
        """The next whose caches fit, and who leaves room for those before whose do not.

        Nobody is let in while a row needs what others are to let go of.
        """
        if self._stuck or self.cramped:
            return None
        room, rows, back = self.room, self.rows, list[Ticket]()
        assert room is not None

        def passes(ticket: Ticket) -> bool:
            if self.shut and not _has_begun(ticket):
                return False
            return room.passes(ticket, back, rows, self.slots)

        while True:
            ticket = self._order.next(self.slots, now, passes if back or self.shut else None)
            if ticket is None or room.fits(ticket):
                self._held_back, self._stuck = back, ticket is None and bool(back)
                return ticket
            ticket.held_at = ticket.held_at or self._granted + 1
            back.append(ticket)

    # --- who makes room -------------------------------------------------------

    def preempt(self) -> int | None:
        """A running ticket that must yield now so that another can run or go on, or None.

        Each call names another one, which keeps its slot until it has `yielded` or is released.
        """
        if not self.rules.preemptible:
            return None
        row = self._giving_way() or self._making_room()
        return None if row is None else row.number

    def _giving_way(self) -> Ticket | None:
        """Ask a row to yield for the caches of another."""
        if self.room is None or not self.room.short or self._yielding():
            return None
        row = self.room.giving_way(self._rows.values())
        if row is not None:
            row.ask_to_yield()
        return row

    def _making_room(self) -> Ticket | None:
        """Ask a row to yield for somebody who waits, and has waited long enough."""
        if self.shut:
            return None
        full, now = self.running >= self.slots, self._clock.monotonic()
        going = self._yielding()
        if not full and (going or not self._held_back):
            return None
        if not full:
            self._order.renew()  # one row was not enough
        for waiting, patience_s in self._order.claimants(self.slots):
            if not self._impatient(waiting, patience_s, now):
                continue
            able = rows_to_pause(waiting, self._rows.values(), self.rules, now)
            if self.room is not None:
                able = self.room.freeing(waiting, able, going)
            if able:
                row = able[0]
                row.paused_at = (*row.paused_at[-1:], now)
                row.ask_to_yield()
                self._order.promise(waiting.share)
                return row
        return None

    def _yielding(self) -> set[int]:
        return {row.number for row in self._rows.values() if row.phase is Phase.YIELDING}

    def _impatient(self, ticket: Ticket, patience_s: float, now: float) -> bool:
        """True when it has waited, or is about to wait, longer than it should."""
        left = patience_s - (now - ticket.ready_at)
        return left <= 0 or self.pace.request_s.value / self.slots > left

    def pause(self, lane: Lane, keeps: Callable[[int], bool]) -> list[int]:
        """Rows of a lane that must yield now, whoever waits; `keeps` tells whose work is kept."""
        return [row.number for row in stop_rows(lane, self._rows.values(), self.rules, keeps)]


def _has_begun(ticket: Ticket) -> bool:
    return ticket.granted > 0
