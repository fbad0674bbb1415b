"""What a connection may send besides bodies: how large heads of requests are, and how slow."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

MAX_HEAD_BYTES = 64 * 1024
"""The request line, header fields, and trailers behind a chunked body."""

MAX_HEADERS = 100
"""Header fields of a request, trailers included."""

HEAD_TIMEOUT_S = 30.0
"""How long a request's head may take to arrive, and a connection to send its first one."""


class HeadTooLarge(Exception):
    """There are too many header fields, or they are too long."""


class _Place(Enum):
    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()


class HeadWatch:
    """Follows one connection through its requests.

    The parser tells of a header field when it has all of it. So bytes are counted twice: of the
    fields that it told of, and of what was read while it told nothing.

    Args:
        loop: runs the timer.
        timeout_s: for what comes before a request's body.
        late: called when that time is over.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout_s: float, late: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self._place = _Place.BETWEEN
        self._fields = self._field_bytes = self._silent_bytes = 0
        self._told = False

    @property
    def in_head(self) -> bool:
        """A request has begun and its head is not complete."""
        return self._place is _Place.HEAD

    @property
    def in_body(self) -> bool:
        """A head is complete and its body is not."""
        return self._place is _Place.BODY

    @property
    def awaits(self) -> bool:
        """More of a request is to come, or its time runs."""
        return self._place is not _Place.BETWEEN or self._timer is not None

    @property
    def too_large(self) -> bool:
        """A bound was passed."""
        counted = max(self._field_bytes, self._silent_bytes)
        return counted > MAX_HEAD_BYTES or self._fields > MAX_HEADERS

    def begin(self) -> None:
        """A request begins."""
        self._place, self._told = _Place.HEAD, True
        self._fields = self._field_bytes = 0

    def line(self, size: int) -> None:
        """A part of the request line was read. Raises HeadTooLarge."""
        self._add(size)

    def field(self, size: int) -> None:
        """A header field was read, or a trailer. Raises HeadTooLarge."""
        self._fields += 1
        self._add(size)

    def _add(self, size: int) -> None:
        self._field_bytes += size
        if self.too_large:
            raise HeadTooLarge

    def complete(self) -> None:
        """The head is complete."""
        self._place, self._told = _Place.BODY, True
        self.stop()

    def body(self) -> None:
        """A part of the body was read."""
        self._told = True

    def end(self) -> None:
        """The request is complete."""
        self._place, self._told = _Place.BETWEEN, True
        self.stop()

    def fed(self, size: int) -> None:
        """The parser was given so many bytes. Raises HeadTooLarge."""
        self._silent_bytes = 0 if self._told else self._silent_bytes + size
        if self.too_large:
            raise HeadTooLarge
        # Line ends between requests begin none, but they put off the end of an idle connection.
        if self.in_head or not (self.in_body or self._told):
            self.start()
        self._told = False

    def start(self) -> None:
        """Give what is to come the time it may take; no effect while the time runs."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._overdue)

    def stop(self) -> None:
        """Nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self) -> None:
        self._timer = None
        self._late()
