"""A reverse proxy on loopback that passes everything on at once and remembers what it saw."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import httptools

from scripts.openclaw.connections import listening
from scripts.openclaw.failure import TurnError

KEPT_BYTES = 4 * 1024 * 1024
_READ_BYTES = 65_536
_HOP = frozenset({"connection", "transfer-encoding", "content-length", "expect", "keep-alive"})


@dataclass
class Exchange:
    """One request and its reply so far.

    `reply` is the decoded body, its first 4 MiB; `complete` says that it ended as its framing
    promised, `left` that the client went before that; times are seconds of the monotonic clock.
    """

    method: str = ""
    path: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""
    begun: float = 0.0
    status: int = 0
    reply_headers: dict[str, str] = field(default_factory=dict[str, str])
    reply: bytearray = field(default_factory=bytearray)
    ended: float | None = None
    complete: bool = False
    left: bool = False


Watcher = Callable[[Exchange], None]


def ignore(_: Exchange) -> None:
    """Watch nothing."""


class Recorder:
    """Stands between a client and a server.

    Args:
        host: where the server listens.
        port: its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._listening = threading.Event()
        self._watcher: Watcher = ignore
        self._exchanges: list[Exchange] = []
        self._stopped: asyncio.Event | None = None
        self.url = ""

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._thread.start()
        if not self._listening.wait(10):
            raise TurnError("the recording proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening and drop what is open."""
        if self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    @property
    def exchanges(self) -> list[Exchange]:
        """What was seen since `watch`, in the order of the requests."""
        return list(self._exchanges)

    def watch(self, watcher: Watcher) -> None:
        """Forget what was seen; call `watcher` whenever an exchange has grown from here on.

        It is called on the proxy's thread, before the client sees what was received.
        """
        self._exchanges = []
        self._watcher = watcher

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._stopped = asyncio.Event()
        async with listening(self._serve) as self.url:
            self._listening.set()
            await self._stopped.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, httptools.HttpParserError):
                exchange = await _read_request(reader)
                if exchange is not None:
                    self._exchanges.append(exchange)
                    self._watcher(exchange)
                    await self._relay(exchange, reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _relay(
        self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Ask the server and pass its reply on, until it ends or the client goes."""
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        up_writer.write(request_bytes(exchange))
        pump = asyncio.create_task(self._pump(exchange, up_reader, writer))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            exchange.left = not pump.done()
        finally:
            for task in (pump, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, OSError, httptools.HttpParserError):
                    await task
            up_writer.transport.abort()
            exchange.ended = time.monotonic()
            self._watcher(exchange)

    async def _pump(
        self, exchange: Exchange, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        parser = httptools.HttpResponseParser(reply := _Reply(exchange))
        reply.status = parser.get_status_code
        while data := await source.read(_READ_BYTES):
            parser.feed_data(data)
            self._watcher(exchange)
            sink.write(data)
            await sink.drain()


def request_bytes(exchange: Exchange) -> bytes:
    """The request as it is passed on: as it came, but for one request per connection."""
    lines = [f"{exchange.method} {exchange.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in exchange.headers if name.lower() not in _HOP]
    lines += ["Connection: close"]
    if exchange.body or exchange.method == "POST":
        lines += [f"Content-Length: {len(exchange.body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + exchange.body


async def _read_request(reader: asyncio.StreamReader) -> Exchange | None:
    """One whole request, or None where the client leaves before."""
    asked = _Asked()
    parser = httptools.HttpRequestParser(asked)
    while not asked.whole:
        data = await reader.read(_READ_BYTES)
        if not data:
            return None
        parser.feed_data(data)
    asked.exchange.method = parser.get_method().decode()
    return asked.exchange


class _Asked:
    """What httptools tells of a request."""

    def __init__(self) -> None:
        self.exchange = Exchange(begun=time.monotonic())
        self.whole = False

    def on_url(self, url: bytes) -> None:
        self.exchange.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.exchange.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self.exchange.body += body

    def on_message_complete(self) -> None:
        self.whole = True


class _Reply:
    """What httptools tells of a reply."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.status: Callable[[], int] = int

    def on_header(self, name: bytes, value: bytes) -> None:
        self._exchange.reply_headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._exchange.status = self.status()

    def on_body(self, body: bytes) -> None:
        room = KEPT_BYTES - len(self._exchange.reply)
        self._exchange.reply += body[: max(0, room)]

    def on_message_complete(self) -> None:
        self._exchange.complete = True
