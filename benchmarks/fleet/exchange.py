"""One try of one request over a bare asyncio transport, timed as its bytes arrive."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast
from urllib.parse import urlsplit

import msgspec

from benchmarks.fleet.events import Counts, Usage, counts_of, read
from benchmarks.http1 import HttpError, ResponseParser, SseParser

_KEPT_DETAIL = 300
_PATIENCE = 6


@dataclass(slots=True)
class Try:
    """What one HTTP request did; times are seconds on the client's monotonic clock.

    `stamps` holds the arrival of each event in which the model spoke. `error` is None, or
    `http_429` and the like, `connect`, `cut`, `timeout` (nothing was heard), `protocol`,
    `stream_error`. `retry_after` is what a refusal promised.
    """

    sent: float
    end: float = 0.0
    status: int = 0
    retry_after: float | None = None
    stamps: list[float] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    error: str | None = None
    detail: str = ""

    @property
    def first(self) -> float | None:
        """When the model first spoke."""
        return self.stamps[0] if self.stamps else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring events in which the model spoke."""
        return [after - before for before, after in pairwise(self.stamps)]

    @property
    def text(self) -> str:
        """All it said."""
        return "".join(self.parts)

    @property
    def counts(self) -> Counts:
        """What it says it cost."""
        return counts_of(self.usages)

    @property
    def refused(self) -> bool:
        """True for a 429."""
        return self.status == 429


class Request(msgspec.Struct, frozen=True):
    """An encoded POST: `url` whole, body as bytes."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> bytes:
        """All bytes of it, on a connection of its own."""
        parts = urlsplit(self.url)
        head = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head += [f"Content-Length: {len(self.body)}", "Connection: close", "", ""]
        return "\r\n".join(head).encode() + self.body


class _Receiver(asyncio.Protocol):
    """Feeds one response into a Try and resolves `done` when it is over."""

    def __init__(self, data: bytes, held: Try, on_first: Callable[[], None] | None) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = data
        self._try = held
        self._on_first = on_first
        self._http = ResponseParser()
        self._sse = SseParser()
        self._ended = False
        self.heard = held.sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport, so this cannot be checked.
        cast(asyncio.Transport, transport).write(self._data)

    def data_received(self, data: bytes) -> None:
        self.heard = time.perf_counter()
        try:
            self._take(self._http.feed(data))
        except (HttpError, msgspec.DecodeError) as error:
            self._fail("protocol", str(error))
        if self._http.done:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._http.close()
        except HttpError as error:
            self._fail("cut", str(exc or error))
        self._finish()

    def _take(self, body: bytes) -> None:
        head = self._http.head
        if head is None:
            return
        self._try.status = head.status
        if head.status != 200:
            self._try.retry_after = _seconds(head.headers.get("retry-after"))
            self._fail(f"http_{head.status}", "")
            room = _KEPT_DETAIL - len(self._try.detail)
            self._try.detail += body[:room].decode(errors="replace")
            return
        for event in self._sse.feed(body):
            self._event(event)

    def _event(self, event: bytes) -> None:
        piece = read(event)
        self._ended |= piece.last
        if piece.usage is not None:
            self._try.usages.append(piece.usage)
        if piece.error:
            self._fail("stream_error", piece.error)
        if piece.text:
            self._try.parts.append(piece.text)
        if piece.spoke:
            self._try.stamps.append(self.heard)
            if self._on_first is not None:
                self._on_first()
                self._on_first = None

    def _fail(self, error: str, detail: str) -> None:
        if self._try.error is None:
            self._try.error, self._try.detail = error, detail[:_KEPT_DETAIL]

    def _finish(self) -> None:
        if self.done.done():
            return
        if not self._ended:
            self._fail("cut", "the stream ended without its last event")
        self._try.end = time.perf_counter()
        self.done.set_result(None)


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


async def send(
    request: Request, timeout_s: float, on_first: Callable[[], None] | None = None
) -> Try:
    """Send a request and read its answer to the end. Failures are in the result, never raised.

    A server that is silent for `timeout_s`, or says nothing to the point in `_PATIENCE` times
    that, hangs.
    """
    parts = urlsplit(request.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    held = Try(time.perf_counter())
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(_PATIENCE * timeout_s):
            transport, receiver = await asyncio.get_running_loop().create_connection(
                lambda: _Receiver(request.data, held, on_first), host, port
            )
            await _until_done(receiver, timeout_s)
    except TimeoutError:
        held.error = held.error or "timeout"
    except OSError as error:
        held.error, held.detail = held.error or "connect", str(error)
    finally:
        if transport is not None:
            transport.close()
        held.end = held.end or time.perf_counter()
    return held


async def _until_done(receiver: _Receiver, silence_s: float) -> None:
    """Wait for the end of the response. Raises TimeoutError after a silence."""
    while not receiver.done.done():
        left = receiver.heard + silence_s - time.perf_counter()
        if left <= 0:
            raise TimeoutError
        await asyncio.wait([receiver.done], timeout=left)
