"""The line of requests that wait for a slot, and which of them is next: pure bookkeeping."""

from collections.abc import Callable, Iterator
from itertools import count

from opta_lmx.backends.frames import Submit


class Line:
    """Requests in order of arrival.

    llama.cpp runs requests of one adapter at a time: beside others only those of the same start.
    A turn of an adapter begins when nothing runs, with the first in line. Those of its adapter
    that are in line by then belong to it; who comes later waits for the next turn, unless nobody
    of another adapter waits before. So no turn lasts for ever, and few requests wait for a turn.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[int, Submit]] = {}
        self._arrivals = count(1)
        self._until = 0
        """The last arrival that belongs to this turn."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Submit]:
        return (request for _, request in self._waiting.values())

    def add(self, request: Submit) -> None:
        """Put a request at the end."""
        self._waiting[request.id] = next(self._arrivals), request

    def remove(self, request: int) -> Submit | None:
        """Take a request out and return it; None when it is not here."""
        return self._waiting.pop(request, (0, None))[1]

    def next(self, adapter: str | None, waits: Callable[[Submit], bool]) -> Submit | None:
        """Who starts next, if anybody may. It stays in the line.

        Args:
            adapter: that of the requests that run; None when none runs.
            waits: says of a request that it is better off to wait; it is passed over.
        """
        if adapter is None:
            self._until = max((arrival for arrival, _ in self._waiting.values()), default=0)
        passed = False
        for arrival, request in self._waiting.values():
            if adapter is not None and request.adapter != adapter:
                passed = True
            elif passed and arrival > self._until:
                return None
            elif not waits(request):
                return request
        return None
