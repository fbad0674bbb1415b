"""WebSocket as this server speaks it: uvicorn's protocol that cuts who stops reading, and sending.

Routes send through an `Outbox`: what a slow client has not taken is kept up to a bound, and the
making of answers never waits for it.
"""

import asyncio
from typing import Any, ClassVar, cast

from starlette.types import Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from opta_lmx.api.http1 import CONNECTION, WRITE_TIMEOUT_S, Connection, WriteWatch
from opta_lmx.api.streaming import MAX_BACKLOG_BYTES, ClientGone, SlowReader
from opta_lmx.security.tls.session import extensions_of

FRAME_LIMIT_BYTES = 16 * 1024 * 1024
"""A message above this closes the connection (1009); routes refuse smaller ones politely."""

MAX_FRAGMENTS = 16_384
"""Frames that one message may be cut into: their number is not bounded by its size."""

_POLITE_BYTES = 64 * 1024
_PIECE_BYTES = 16 * 1024
_POLICY_VIOLATION = 1008

PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0
"""A client that answers no ping for so long is gone."""


def frame_limit(body_limit_bytes: int) -> int:
    """Return uvicorn's `ws_max_size`: whatever a body may hold, a message may hold."""
    return max(FRAME_LIMIT_BYTES, body_limit_bytes + _POLITE_BYTES)


class _SocketConnection:
    """What a route may know of the connection."""

    def __init__(self, protocol: "WebSocketProtocol") -> None:
        self._protocol = protocol

    def writable(self) -> bool:
        """False while bytes wait because the client does not read."""
        return self._protocol.writable.is_set()

    def abort(self) -> None:
        """Close at once; what waits to be sent is dropped."""
        self._protocol.transport.abort()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection. `write_timeout_s` is set by `websocket_class`."""

    write_timeout_s: ClassVar[float] = WRITE_TIMEOUT_S

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._watch: WriteWatch | None = None
        self._unread = bytearray()
        self._reading: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection from HTTP."""
        super().connection_made(transport)
        self._watch = WriteWatch(
            cast("asyncio.Transport", transport), self.loop, self.write_timeout_s
        )

    def data_received(self, data: bytes) -> None:
        """Take what arrived, a piece in each turn of the loop: others must get theirs."""
        self._unread += data
        if self._reading is None:
            self._read_piece()
        elif not self.transport.is_closing():
            self.transport.pause_reading()

    def _read_piece(self) -> None:
        self._reading = None
        piece = bytes(self._unread[:_PIECE_BYTES])
        del self._unread[:_PIECE_BYTES]
        super().data_received(piece)
        if self.transport.is_closing():
            self._unread.clear()
        elif self._unread:
            self.transport.pause_reading()
            self._reading = self.loop.call_soon(self._read_piece)
        elif not self.read_paused:
            self.transport.resume_reading()

    def handle_cont(self, event: Frame) -> None:
        """Take a further part of a message."""
        if self.close_sent:
            return
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
            return
        self.conn.fail(_POLICY_VIOLATION, "too many fragments")
        self.handle_parser_exception()

    def handle_ping(self) -> None:
        """Answer, unless the client does not even read the answers it has."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_connect(self, event: Request) -> None:
        """Answer the handshake; the application may ask for the connection."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            scope = cast("dict[str, Any]", self.scope)
            scope["extensions"][CONNECTION] = _SocketConnection(self)
            scope["extensions"].update(extensions_of(self.transport))

    async def send(self, message: Any) -> None:
        """Send what the application says; a handshake refused with a reply is complete, too."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True

    def pause_writing(self) -> None:
        """The client reads too slowly: from now on it must at least read something."""
        super().pause_writing()
        if self._watch is not None:
            self._watch.start()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._watch is not None:
            self._watch.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._reading is not None:
            self._reading.cancel()
        self._unread.clear()
        if self._watch is not None:
            self._watch.stop()
        super().connection_lost(exc)


def websocket_class(write_timeout_s: float = WRITE_TIMEOUT_S) -> type[WebSocketProtocol]:
    """Return the protocol for uvicorn's `ws` setting.

    Args:
        write_timeout_s: a client that takes none of the waiting bytes for so long is cut.
    """
    return type("WebSocketProtocol", (WebSocketProtocol,), {"write_timeout_s": write_timeout_s})


class Outbox:
    """Sends the text frames of one accepted socket, in order; several tasks may send.

    Args:
        send: the server's.
        connection: tells whether the client reads.
    """

    def __init__(self, send: Send, connection: Connection) -> None:
        self._send = send
        self._connection = connection
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._closed

    async def send(self, frame: bytes) -> None:
        """Send one frame of UTF-8 text, or keep it until the client reads.

        Raises:
            SlowReader: too much waits already; the connection has been cut.
            ClientGone: it was closed.
        """
        if self._closed:
            raise ClientGone
        if self._flusher is None and self._connection.writable():
            await self._send_now(frame)
            return
        self._backlog.append(frame)
        self._backlog_bytes += len(frame)
        if self._backlog_bytes > MAX_BACKLOG_BYTES:
            self._connection.abort()
            self.close()
            raise SlowReader
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def _send_now(self, frame: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "text": frame.decode()})
        except (OSError, WebSocketDisconnect):
            # The server's way, and the framework's, to say that the connection is closed.
            self._closed = True
            raise ClientGone from None

    async def _flush(self) -> None:
        while self._backlog and not self._closed:
            frames, self._backlog = self._backlog, []
            for frame in frames:
                self._backlog_bytes -= len(frame)
                try:
                    await self._send_now(frame)
                except ClientGone:
                    return
        self._flusher = None

    async def drain(self) -> None:
        """Wait until nothing is kept back any more."""
        if self._flusher is not None:
            await asyncio.wait({self._flusher})

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        if self._flusher is not None:
            self._flusher.cancel()
