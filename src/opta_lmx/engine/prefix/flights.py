"""Requests in flight, what they are about to store, and who waits for it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from opta_lmx.backends.frames import Reuse
from opta_lmx.engine.prefix.entries import Entry
from opta_lmx.engine.prefix.plan import CachePlan
from opta_lmx.engine.prefix.shelf import Shelf
from opta_lmx.engine.prefix.tree import Node, Path


class Pending(NamedTuple):
    """A state to come: its tokens, its bytes, and how many of these are kept free for it.

    An answer's end has 0 tokens and bytes: its length is not known before it is stored.
    """

    tokens: int
    size: int
    reserved: int = 0


class Flight:
    """One submitted request, the `number`-th.

    `pending` maps a handle to what is known of the state to come. `entry` is what the request
    starts from, until it has started; `joins`: it is still to come.
    """

    __slots__ = ("entry", "joins", "node", "number", "pending", "plan")

    def __init__(self, number: int, plan: CachePlan, node: Node, entry: Entry | None) -> None:
        self.number = number
        self.plan = plan
        self.node = node
        self.entry = entry
        self.joins = plan.reuse is not None and entry is None
        self.pending: dict[int, Pending] = {}

    def offers(self, path: Path, usable: int, trimmable: bool) -> tuple[int, int] | None:
        """The best pending state for a prompt with this path: (tokens it may use, handle)."""
        shared = min(path.shared_with(self.node), usable)
        best: tuple[int, int] | None = None
        for handle, (tokens, _, _) in self.pending.items():
            if tokens and (tokens <= shared or trimmable):
                offer = (min(tokens, shared), handle)
                # Of two that serve equally well the sooner one.
                if best is None or offer[0] > best[0]:
                    best = offer
        return best


class Flights:
    """All requests in flight, by ticket, and the room that is reserved for what they will keep.

    Args:
        shelf: where the states will be stored.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._flights: dict[int, Flight] = {}
        self._tickets: dict[int, int] = {}

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._flights

    @property
    def tickets(self) -> tuple[int, ...]:
        """Requests in flight."""
        return tuple(self._flights)

    def add(self, ticket: int, flight: Flight) -> None:
        """A request is submitted."""
        self._flights[ticket] = flight

    def get(self, ticket: int) -> Flight | None:
        """The request of a ticket."""
        return self._flights.get(ticket)

    def pop(self, ticket: int) -> Flight | None:
        """Take a request out that is over; what it expected is settled before."""
        return self._flights.pop(ticket, None)

    def expects(self, handle: int) -> bool:
        """True when some request is about to store this state."""
        return handle in self._tickets

    def expect(self, ticket: int, states: Iterable[tuple[int, int]]) -> None:
        """Note states to come, each a handle and the tokens it will hold (0: the answer's end).

        An end takes over what its row had in memory, so only a checkpoint needs room of its own.
        """
        flight = self._flights[ticket]
        for handle, tokens in states:
            size = self._shelf.rules.size(tokens) if tokens else 0
            self._shelf.promised += size
            flight.pending[handle] = Pending(tokens, size)
            self._tickets[handle] = ticket

    def make_room(self, flight: Flight) -> None:
        """Keep room free for the checkpoints of a prompt that is being processed.

        Not before: requests may wait long in the worker, and what is held serves others meanwhile.
        Without room they are let come all the same, and have to find it then.
        """
        coming = {handle: one for handle, one in flight.pending.items() if not one.reserved}
        if self._shelf.make_room(sum(one.size for one in coming.values())):
            for handle, one in coming.items():
                self._shelf.reserved += one.size
                flight.pending[handle] = one._replace(reserved=one.size)

    def settle(self, handle: int) -> Flight | None:
        """A state has come or never will: free its room. Returns whose it was."""
        ticket = self._tickets.pop(handle, None)
        flight = None if ticket is None else self._flights[ticket]
        if flight is not None:
            pending = flight.pending.pop(handle)
            self._shelf.promised -= pending.size
            self._shelf.reserved -= pending.reserved
        return flight

    def leader(self, path: Path, usable: int, salt: str, least: int) -> tuple[int | None, Reuse]:
        """The request that will have most of a prompt, at least `least` tokens, and its state.

        (None, nothing) without one.
        """
        best, leader, awaits = least - 1, None, 0
        for ticket, flight in self._flights.items():
            if flight.plan.salt != salt:
                continue
            offer = flight.offers(path, usable, self._shelf.rules.trimmable)
            if offer is not None and offer[0] > best:
                best, awaits = offer
                leader = ticket
        return leader, Reuse(awaits, best if awaits else 0)

    def starting(self, handle: int) -> Iterator[Flight]:
        """Requests that wait in the worker for this state, to start from it."""
        for flight in self._flights.values():
            reuse = flight.plan.reuse
            if flight.joins and reuse is not None and reuse.handle == handle:
                yield flight


class _Follower:
    __slots__ = ("awaits", "deadline", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.awaits = 0
        self.deadline = 0.0


class Followers:
    """Requests that wait for a handle; each wait ends, at its deadline at the latest.

    Args:
        limit_s: how long one request may wait in all.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._waiting: dict[int, _Follower] = {}
        self._woken: list[int] = []

    def wait(self, ticket: int, handle: int, now: float, patience_s: float) -> bool:
        """Let a ticket wait for a handle; False when it has waited long enough."""
        follower = self._waiting.setdefault(ticket, _Follower(now))
        if now - follower.since >= self._limit_s:
            return False
        follower.awaits = handle
        follower.deadline = min(now + patience_s, follower.since + self._limit_s)
        return True

    def wake(self, handle: int) -> None:
        """The handle is there, or will not come."""
        for ticket, follower in self._waiting.items():
            if follower.awaits == handle:
                follower.awaits = 0
                self._woken.append(ticket)

    def forget(self, ticket: int) -> None:
        """The ticket waits no more, whatever it waited for."""
        if self._waiting.pop(ticket, None) is not None and ticket in self._woken:
            self._woken.remove(ticket)

    def take_woken(self, now: float) -> tuple[int, ...]:
        """Tickets that are to be planned again, each once."""
        for ticket, follower in self._waiting.items():
            if follower.awaits and now >= follower.deadline:
                follower.awaits = 0
                self._woken.append(ticket)
        woken = tuple(self._woken)
        self._woken.clear()
        return woken

    def next_deadline(self) -> float | None:
        """When `take_woken` should be looked at even if nothing happens."""
        return min((one.deadline for one in self._waiting.values() if one.awaits), default=None)

    def awaited(self) -> dict[int, int]:
        """The handle that each waiting ticket waits for."""
        return {ticket: one.awaits for ticket, one in self._waiting.items() if one.awaits}
