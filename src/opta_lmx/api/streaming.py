"""Answers that outlive a moment: cancelled when the client goes, kept alive while it waits.

A client that reads too slowly never holds up the making of its answer: what it has not taken
is kept up to `MAX_BACKLOG_BYTES`, then it is cut. The connection itself cuts who stops reading.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from opta_lmx.api.http1 import Connection, connection_of
from opta_lmx.core.clock import Clock

MAX_BACKLOG_BYTES = 1024 * 1024
_WRITE_BYTES = 64 * 1024
_ABORT_S = 1.0

RawHeaders = Iterable[tuple[bytes, bytes]]
EVENT_STREAM = "text/event-stream; charset=utf-8"
JSON_LINES = "application/x-ndjson"


class ClientGone(Exception):
    """The client closed its connection before its answer ended."""


class SlowReader(ClientGone):
    """The client fell too far behind and was cut."""


async def until_disconnect(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Run `work`; cancel it as soon as the client goes.

    Raises:
        ClientGone: the client went first. Otherwise whatever `work` raises.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        task.result()
    except SlowReader:
        # The server learns of the cut in the next turns of the loop, and is quiet only then.
        await asyncio.wait({watcher}, timeout=_ABORT_S)
        raise
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _serve(
    scope: Scope, receive: Receive, work: Coroutine[None, None, None], close: Callable[[], None]
) -> None:
    """Do the work, note in the scope when the client went first, free everything."""
    try:
        await until_disconnect(receive, work)
    except ClientGone:
        scope["opta_lmx.client_gone"] = True
    finally:
        close()


class StreamWriter:
    """Writes the parts of one streamed answer, never waiting for a client that reads slowly.

    Args:
        send: the server's.
        headers: of the answer.
        clock: time.
        connection: tells whether the client reads.
    """

    def __init__(
        self, send: Send, headers: RawHeaders, clock: Clock, connection: Connection
    ) -> None:
        self._send = send
        self._headers = [*headers]
        self._clock = clock
        self._connection = connection
        self._backlog = bytearray()
        self._flusher: asyncio.Future[None] | None = None
        self._head_sent = False
        self._ended = False
        self.started = False
        self.last_write = 0.0

    async def write(self, data: bytes) -> None:
        """Send bytes, with the 200 and its headers before the first; later if they must wait.

        Raises:
            SlowReader: too much waits already; the connection has been cut.
        """
        if self._ended:
            return
        self.last_write = self._clock.monotonic()
        self.started = True
        if self._flusher is None and self._connection.writable():
            await self._send_now(data)
            return
        self._backlog += data
        if len(self._backlog) > MAX_BACKLOG_BYTES:
            self._connection.abort()
            raise SlowReader
        if self._flusher is None:
            self._flusher = asyncio.ensure_future(self._flush())

    async def _send_now(self, data: bytes) -> None:
        if not self._head_sent:
            self._head_sent = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": self._headers}
            )
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _flush(self) -> None:
        """Send what waits, many events at once."""
        while self._backlog:
            data = bytes(self._backlog[:_WRITE_BYTES])
            del self._backlog[:_WRITE_BYTES]
            await self._send_now(data)
        self._flusher = None

    async def end(self) -> None:
        """Close the body once everything is sent."""
        self._ended = True
        if self._flusher is not None:
            await self._flusher
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """Stop sending, however the answer ended."""
        self._ended = True
        if self._flusher is not None:
            self._flusher.cancel()


class EventStream(Response):
    """A streamed answer; what fails before its first byte is an ordinary error reply.

    Args:
        produce: writes the events.
        noop: gives the bytes to send after `keepalive_s` seconds of silence.
        clock: time.
        close: frees what the answer holds; called however it ends.
    """

    def __init__(
        self,
        produce: Callable[[StreamWriter], Awaitable[None]],
        *,
        noop: Callable[[], bytes],
        keepalive_s: float,
        clock: Clock,
        close: Callable[[], None],
        media_type: str = EVENT_STREAM,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._close = close
        self._produce = produce
        self._noop = noop
        self._keepalive_s = keepalive_s
        self._clock = clock
        self._head = (
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        writer = StreamWriter(send, self._head, self._clock, connection_of(scope))
        await _serve(scope, receive, self._run(writer), self._close)

    async def _run(self, writer: StreamWriter) -> None:
        ticker = asyncio.ensure_future(self._keep_alive(writer))
        try:
            await self._produce(writer)
            # Nothing can be said any more, and a ticker that writes nothing never yields.
            ticker.cancel()
            await writer.end()
        finally:
            ticker.cancel()
            writer.close()

    async def _keep_alive(self, writer: StreamWriter) -> None:
        while True:
            idle_s = self._clock.monotonic() - writer.last_write
            due_s = self._keepalive_s - idle_s if writer.started else self._keepalive_s
            if due_s <= 0:
                await writer.write(self._noop())
            else:
                await self._clock.sleep(due_s)


class PlainAnswer(Response):
    """A whole JSON answer whose making stops when the client goes."""

    def __init__(
        self,
        produce: Callable[[], Awaitable[bytes]],
        *,
        close: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type="application/json")
        self._produce = produce
        self._close = close
        self._extra = dict(headers or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make and send the answer."""
        await _serve(scope, receive, self._run(scope, receive, send), self._close)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._produce()
        answer = Response(body, headers=self._extra, media_type="application/json")
        await answer(scope, receive, send)
