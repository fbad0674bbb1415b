"""The bounded waiting line of one model: first come, first served, refused when full."""

from collections import OrderedDict

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.scheduling.retry import ServiceRate


class WaitingLine:
    """Counts who is in front of the model and decides who runs next.

    A ticket is `entered` at the first gate, becomes `ready` when its prompt is prepared, and
    `runs` when a slot is granted. Entered and ready tickets are bounded by the free slots plus
    `max_waiting`; a ticket above that is refused at once.
    """

    def __init__(self, max_waiting: int, rate: ServiceRate) -> None:
        self.max_waiting = max_waiting
        self._rate = rate
        self._preparing: set[int] = set()
        self._ready: OrderedDict[int, None] = OrderedDict()
        self._running: set[int] = set()
        self._slots = 1
        self._last = 0

    @property
    def waiting(self) -> int:
        """Tickets that have not been granted a slot."""
        return len(self._preparing) + len(self._ready)

    @property
    def running(self) -> int:
        """Tickets that hold a slot."""
        return len(self._running)

    @property
    def slots(self) -> int:
        """Slots the worker granted (credits)."""
        return self._slots

    def set_slots(self, slots: int) -> None:
        """Say how many requests may run at once; running ones are never cut."""
        self._slots = slots

    def retry_after(self) -> float:
        """Seconds until a newcomer could expect a place (1 to 60)."""
        return self._rate.retry_after(self.waiting + 1, self._slots)

    def enter(self) -> int:
        """Take a ticket. Raises RATE_LIMITED when the line is full."""
        return self.enter_many(1)[0]

    def enter_many(self, count: int) -> tuple[int, ...]:
        """Take several tickets or none. Raises RATE_LIMITED when there is not room for all."""
        free = max(0, self._slots - self.running)
        if self.waiting + count > free + self.max_waiting:
            raise LmxError(
                ErrorKind.RATE_LIMITED,
                f"The waiting line of this model is full ({self.waiting} waiting, "
                f"{self.running} running). Retry later.",
                code="queue_full",
                retry_after=self.retry_after(),
            )
        first, self._last = self._last + 1, self._last + count
        tickets = tuple(range(first, self._last + 1))
        self._preparing.update(tickets)
        return tickets

    def mark_ready(self, ticket: int) -> None:
        """The ticket's prompt is prepared; it takes its turn from here on."""
        if ticket in self._preparing:
            self._preparing.remove(ticket)
            self._ready[ticket] = None

    def grant(self) -> int | None:
        """Give a free slot to the next ready ticket, or return None."""
        if not self._ready or self.running >= self._slots:
            return None
        ticket, _ = self._ready.popitem(last=False)
        self._running.add(ticket)
        return ticket

    def leave(self, ticket: int) -> None:
        """Forget a ticket that never got a slot; its slot, if any, is not touched."""
        self._preparing.discard(ticket)
        self._ready.pop(ticket, None)

    def release(self, ticket: int, seconds: float | None = None) -> None:
        """Free the slot of a ticket; `seconds` is how long it ran, for the rate estimate."""
        if ticket in self._running:
            self._running.remove(ticket)
            if seconds is not None:
                self._rate.record(seconds)

    def clear_running(self) -> None:
        """Forget every slot: the worker that held them is gone."""
        self._running.clear()
