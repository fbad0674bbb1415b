"""Answers that outlive a moment: cancelled when the client goes, kept alive while it waits."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from opta_lmx.core.clock import Clock

RawHeaders = Iterable[tuple[bytes, bytes]]
_SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class ClientGone(Exception):
    """The client closed its connection before its answer ended."""


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
    """Writes the parts of one streamed answer; remembers when it last did."""

    def __init__(self, send: Send, headers: RawHeaders, clock: Clock) -> None:
        self._send = send
        self._headers = [*headers]
        self._clock = clock
        self.started = False
        self.last_write = 0.0

    async def write(self, data: bytes) -> None:
        """Send bytes, with the 200 and its headers before the first."""
        self.last_write = self._clock.monotonic()
        if not self.started:
            self.started = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": self._headers}
            )
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Close the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Response):
    """A server-sent-event answer; what fails before its first byte is an ordinary error reply.

    Args:
        produce: writes the events.
        noop: bytes sent after `keepalive_s` seconds of silence.
        clock: time.
        close: frees what the answer holds; called however it ends.
    """

    def __init__(
        self,
        produce: Callable[[StreamWriter], Awaitable[None]],
        *,
        noop: bytes,
        keepalive_s: float,
        clock: Clock,
        close: Callable[[], None],
    ) -> None:
        super().__init__()
        self._close = close
        self._produce = produce
        self._noop = noop
        self._keepalive_s = keepalive_s
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        writer = StreamWriter(send, _SSE_HEADERS, self._clock)
        await _serve(scope, receive, self._run(writer), self._close)

    async def _run(self, writer: StreamWriter) -> None:
        ticker = asyncio.ensure_future(self._keep_alive(writer))
        try:
            await self._produce(writer)
            await writer.end()
        finally:
            ticker.cancel()

    async def _keep_alive(self, writer: StreamWriter) -> None:
        while True:
            idle_s = self._clock.monotonic() - writer.last_write
            due_s = self._keepalive_s - idle_s if writer.started else self._keepalive_s
            if due_s <= 0:
                await writer.write(self._noop)
            else:
                await self._clock.sleep(due_s)


class PlainAnswer(Response):
    """A whole JSON answer whose making stops when the client goes."""

    def __init__(
        self, produce: Callable[[], Awaitable[bytes]], *, close: Callable[[], None]
    ) -> None:
        super().__init__(media_type="application/json")
        self._produce = produce
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make and send the answer."""
        await _serve(scope, receive, self._run(scope, receive, send), self._close)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._produce()
        await Response(body, media_type="application/json")(scope, receive, send)
