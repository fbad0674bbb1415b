"""Who has had how much: a tree of weighted service counters.

The levels are lane, tenant, key and client. Each counter is cost divided by weight; who has the
lowest goes next. Whoever starts to wait is lifted to the lowest of those who already do, so
nobody saves up service by asking for nothing; and to what an equal share would have come to by
now (the virtual time of fair queueing, Parekh and Gallager 1993), so an endless row of newcomers
does not go before one who has had something.
"""

import math
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from opta_lmx.scheduling.pace import Average

if TYPE_CHECKING:
    from opta_lmx.scheduling.tickets import Ticket


_FLOW_S = 60.0
"""What came longer ago than this hardly counts for what is likely to come (s)."""


class Share:
    """One counter, with those below it, or with the ready tickets of one client.

    Args:
        weight: its part against its siblings.
        parent: the level above; None for the root.
        name: what its parent knows it by.
    """

    __slots__ = (
        "active",
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
        self.queue: list[Ticket] = []
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

    def entry(self) -> float:
        """The counter it has, or would have if it began to wait now."""
        parent = self.parent
        if parent is None or self.ready:
            return self.used
        if self.present:
            return max(self.used, parent.floor, parent.lowest)
        return max(self.used, parent.floor, parent.lowest, parent.even)

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

    def siblings(self) -> "Iterator[Share]":
        """The others at its level."""
        if self.parent is not None:
            yield from (other for other in self.parent.children.values() if other is not self)

    def came(self, cost: float, seconds: float, now: float) -> None:
        """Note a request that has come, for this client and everybody above it."""
        for share in self.path:
            flow_cost, flow_s = share.inflow(now)
            share.flow = flow_cost + cost / _FLOW_S, flow_s + seconds / _FLOW_S
            share.flow_at = now

    def inflow(self, now: float) -> tuple[float, float]:
        """Cost, and slot seconds, that have come lately, per second."""
        if not self.flow[0]:
            return self.flow
        kept = math.exp((self.flow_at - now) / _FLOW_S)
        return self.flow[0] * kept, self.flow[1] * kept

    def charge(self, cost: float) -> None:
        """Count service for this client and everybody above it."""
        for share in self.path:
            parent = share.parent
            assert parent is not None
            if cost >= 0:
                share.used += cost / share.weight
            else:
                # What is given back is no credit against those who came while it was charged.
                others = (other.used for other in parent.active.values() if other is not share)
                least = min(share.used, min(others, default=0.0))
                share.used = max(share.used + cost / share.weight, least)
            parent._advance(parent.even + cost / max(parent.weighing, share.weight))  # noqa: SLF001  (of its own kind)

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

    def insert(self, ticket: "Ticket") -> None:
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

    def remove(self, ticket: "Ticket") -> None:
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
        fits: Callable[["Ticket"], bool],
        passes: "Callable[[Ticket], bool] | None" = None,
    ) -> "list[Ticket]":
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
