"""Who has had how much: a tree of weighted service counters.

The levels are lane, tenant, key and client. Each counter is cost divided by weight; who has the
lowest goes next. Whoever starts to wait is lifted to the lowest of those who already do, so
nobody saves up service by asking for nothing; and to what an equal share would have come to by
now (the virtual time of fair queueing, Parekh and Gallager 1993), so an endless row of newcomers
does not go before one who has had something.
"""

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol, TypeVar

from opta_lmx.scheduling.pace import Average

_FLOW_S = 60.0
"""What came longer ago than this hardly counts for what is likely to come (s)."""


class Entry(Protocol):
    """What a tree of counters knows of the tickets in it: all are of one kind.

    `order` is its rank among its client's, `expected` what it is likely to cost, `expected_s` how
    long it is likely to hold a slot (s).
    """

    order: int
    expected: float
    expected_s: float


_Entry = TypeVar("_Entry", bound=Entry)


class Share:
    """One counter, with those below it, or with the ready tickets of one client.

    Args:
        weight: its part against its siblings.
        parent: the level above; None for the root.
        name: what its parent knows it by.
    """

    __slots__ = (
        "active",
        "ahead",
        "answer",
        "backlog",
        "backlog_s",
        "children",
        "claims",
        "even",
        "floor",
        "flow",
        "flow_at",
        "idle",
        "leaving",
        "name",
        "parent",
        "path",
        "present",
        "queue",
        "ready",
        "running",
        "used",
        "weighing",
        "weight",
    )

    def __init__(self, weight: float, parent: "Share | None" = None, name: object = None) -> None:
        self.weight = weight
        self.parent = parent
        self.name = name
        self.path: tuple[Share, ...] = (*parent.path, self) if parent is not None else ()
        """From the lane down to itself."""
        self.used = 0.0
        self.floor = 0.0
        """The counter of the last child that was picked: a newcomer starts no lower."""
        self.even = 0.0
        """What each child would have had if all present had been served evenly: neither does a
        newcomer start lower than this."""
        self.ahead = 0.0
        """How much of that is for service not done yet: newcomers do not start higher for it."""
        self.weighing = 0.0
        """Weight of the children that are present."""
        self.present = False
        """It has something ready or running, or has had more than evenly since it had."""
        self.leaving: list[tuple[float, int, Share]] = []
        """Children present for that last reason alone, or who were; the lowest counter first."""
        self.children: dict[object, Share] = {}
        self.active: dict[object, Share] = {}
        """Children with ready tickets."""
        self.idle: dict[object, None] = {}
        """Children with nothing ready or running, the longest idle first."""
        self.queue: list[Any] = []
        """Ready tickets of a client, the next one first."""
        self.ready = 0
        self.running = 0
        self.backlog = 0.0
        """Cost expected of the ready tickets."""
        self.backlog_s = 0.0
        """Slot seconds expected of them."""
        self.flow = (0.0, 0.0)
        self.flow_at = 0.0
        self.answer = Average(0.0)
        """Tokens of an answer."""
        self.claims = 0
        """Slots held or promised, without those being given up."""

    def child(self, name: object, weight: float) -> "Share":
        """The child of that name, made when unknown; its weight is the one said last."""
        child = self.children.get(name)
        if child is None:
            child = self.children[name] = Share(weight, self, name)
            self.idle[name] = None
        if child.present:
            self.weighing += weight - child.weight
        child.weight = weight
        return child

    def entry(self, first: float | None = None) -> float:
        """The counter it has, or would have if it began to wait now.

        `first`: its parent's `first_entry`, where that is known.
        """
        parent = self.parent
        if self.ready or parent is None:
            return self.used
        least = max(self.used, parent.first_entry() if first is None else first)
        return least if self.present else max(least, parent.even - parent.ahead)

    def first_entry(self) -> float:
        """No child starts to wait lower than this."""
        return max(self.floor, self.lowest)

    @property
    def lowest(self) -> float:
        """The lowest counter of the children that wait; 0 where none does."""
        return min((child.used for child in self.active.values()), default=0.0)

    @property
    def root(self) -> "Share":
        """What is above all lanes."""
        return self.path[0].parent or self if self.path else self

    def upwards(self) -> "tuple[Share, ...]":
        """Itself and everything above, the root last."""
        return (*reversed(self.path), self.root)

    def came(self, cost: float, seconds: float, now: float) -> None:
        """Note a request that has come, for this client and everybody above it."""
        for share in self.path:
            flow_cost, flow_s = share.inflow(now)
            share.flow = flow_cost + cost / _FLOW_S, flow_s + seconds / _FLOW_S
            share.flow_at = now

    def inflow(self, now: float) -> tuple[float, float]:
        """Cost, and slot seconds, that have come lately, per second."""
        cost, seconds = self.flow
        if not cost:
            return self.flow
        kept = math.exp((self.flow_at - now) / _FLOW_S)
        return cost * kept, seconds * kept

    def charge(self, cost: float) -> None:
        """Count service for this client and everybody above it."""
        for share in self.path:
            parent = share.parent
            assert parent is not None
            share.used += cost / share.weight
            parent._advance(parent.even + share._evenly(cost))  # noqa: SLF001  (of its own kind)

    def pay_ahead(self, cost: float) -> tuple[float, ...]:
        """Count service that is yet to be done; return what `settle` needs to know of it."""
        rises: list[float] = []
        for share in self.path:
            parent = share.parent
            assert parent is not None
            rises.append(share._evenly(cost))  # noqa: SLF001
            parent.ahead += rises[-1]
        self.charge(cost)
        return tuple(rises)

    def settle(self, rises: tuple[float, ...], paid: float, back: float = 0.0) -> None:
        """What was paid ahead is done, or broken off.

        Args:
            rises: how far each level's even share went up for it.
            paid: its cost.
            back: how much of that is given back.
        """
        for share, rise in zip(self.path, rises, strict=True):
            parent = share.parent
            assert parent is not None
            parent.ahead -= rise
            if back:
                # What is given back is no credit against those who came while it was charged.
                others = (other.used for other in parent.active.values() if other is not share)
                least = min(share.used, min(others, default=0.0))
                share.used = max(share.used - back / share.weight, least)
                parent.even -= rise * back / paid

    def _evenly(self, cost: float) -> float:
        """A cost of this child's, divided among all who are present."""
        assert self.parent is not None
        return cost / max(self.parent.weighing, self.weight)

    def _advance(self, even: float) -> None:
        """An even share has come to so much: some who left with more are gone by now."""
        self.even = even
        while self.leaving and self.leaving[0][0] <= self.even:
            *_, child = heappop(self.leaving)
            idle = child.present and not child.ready and not child.running
            if idle and child.used <= self.even:
                child._part()  # noqa: SLF001

    def _arrive(self) -> None:
        """It counts among its parent's children from here on; time is where it starts."""
        if not self.present and self.parent is not None:
            self.present = True
            self.parent.weighing += self.weight
            self.parent._advance(max(self.parent.even, self.parent.floor, self.parent.lowest))  # noqa: SLF001

    def _leave(self) -> None:
        """It has nothing any more; who has had more than evenly stays until the others have."""
        parent = self.parent
        if parent is not None and self.used > parent.even:
            heappush(parent.leaving, (self.used, id(self), self))
        else:
            self._part()

    def _part(self) -> None:
        if self.parent is not None:
            self.present = False
            self.parent.weighing -= self.weight

    def hold(self, count: int) -> None:
        """Count slots held, and claimed, by this client."""
        for share in self.path:
            share.running += count
            share.claims += count

    def claim(self, count: int) -> None:
        """Count slots promised, or about to be given up."""
        for share in self.path:
            share.claims += count

    def insert(self, ticket: Entry) -> None:
        """Add a ready ticket, by its order; lift whoever had none."""
        for share in self.path:
            if not share.ready and share.parent is not None:
                share.used = share.entry()
                share._arrive()  # noqa: SLF001
                share.parent.active[share.name] = share
                share.parent.idle.pop(share.name, None)
            share.ready += 1
            share.backlog += ticket.expected
            share.backlog_s += ticket.expected_s
        at = len(self.queue)
        while at and self.queue[at - 1].order > ticket.order:
            at -= 1
        self.queue.insert(at, ticket)

    def remove(self, ticket: Entry) -> None:
        """Take out a ready ticket."""
        self.queue.remove(ticket)
        for share in self.path:
            share.ready -= 1
            share.backlog = share.backlog - ticket.expected if share.ready else 0.0
            share.backlog_s = share.backlog_s - ticket.expected_s if share.ready else 0.0
            if not share.ready and share.parent is not None:
                del share.parent.active[share.name]

    def picked(self, quantum: float) -> None:
        """It goes next: newcomers start from here.

        Whoever was held back by a cap gets no more than a quantum of what it missed.
        """
        for share in self.path:
            parent = share.parent
            assert parent is not None
            share.used = max(share.used, parent.floor - quantum / share.weight)
            parent.floor = max(parent.floor, share.used)

    def contenders(
        self,
        quantum: float,
        fits: Callable[[_Entry], bool],
        passes: Callable[[_Entry], bool] | None = None,
    ) -> list[_Entry]:
        """The first ticket of each client that may go next: the lowest counters at each level.

        Counters within a quantum of the lowest count as equal. `passes` leaves out tickets; of
        each client the first is taken that it does not.
        """
        if self.queue:
            if not fits(self.queue[0]):
                return []
            first = next(filter(passes, self.queue), None) if passes else self.queue[0]
            return [] if first is None else [first]
        found = [
            (child, heads)
            for child in self.active.values()
            if (heads := child.contenders(quantum, fits, passes))
        ]
        if len(found) <= 1:
            return found[0][1] if found else []
        least = min(child.used for child, _ in found)
        return [
            head
            for child, heads in found
            if child.used <= least + quantum / child.weight
            for head in heads
        ]

    def rest(self, remembered: int) -> None:
        """Count as idle whoever has nothing ready or running, here and above.

        `remembered` of each parent's are kept: who was idle longest is forgotten first.
        """
        for share in reversed(self.path[1:]):
            parent = share.parent
            if parent is None or share.ready or share.running:
                return
            if share.present:
                share._leave()  # noqa: SLF001
            parent.idle.pop(share.name, None)
            parent.idle[share.name] = None
            while len(parent.idle) > remembered:
                name = next(iter(parent.idle))
                del parent.idle[name]
                del parent.children[name]
