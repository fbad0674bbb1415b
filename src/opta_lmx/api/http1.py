"""HTTP/1.1 as this server speaks it: uvicorn's protocol with its gaps closed.

A client that stops reading is cut, a client that goes is noticed even behind a pipelined
request, and an `Upgrade` nobody here knows is ignored instead of costing the request its body.
WebSocket is the one that is known. Heads of requests have a bound and a deadline, and trailers
are no headers.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, cast

import httptools
import msgspec
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState
from websockets.http11 import MAX_LINE_LENGTH

from opta_lmx.api.heads import (
    HEAD_TIMEOUT_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    HeadTooLarge,
    HeadWatch,
)
from opta_lmx.api.write_watch import WriteWatch
from opta_lmx.security.tls.session import extensions_of

WRITE_TIMEOUT_S = 30.0
"""How long a client may take nothing of what waits for it."""

MAX_PIPELINED = 16
MAX_PIPELINED_BYTES = 1024 * 1024
"""Requests sent ahead, and bytes of their bodies, up to which the connection is read on."""

CONNECTION = "opta_lmx.connection"
"""Where a scope's `extensions` hold its `Connection`."""

MAX_HANDSHAKE_LINE_BYTES = MAX_LINE_LENGTH - 32
"""The path of a WebSocket, or a header field without what stands around it."""

_UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


class Connection(Protocol):
    """What an answer may know of the connection it is written to."""

    def writable(self) -> bool:
        """False while bytes wait because the client does not read."""
        ...

    def abort(self) -> None:
        """Close at once; what waits to be sent is dropped."""
        ...


class _Unknown:
    """A connection of a server that tells nothing."""

    def writable(self) -> bool:
        return True

    def abort(self) -> None:
        pass


def connection_of(scope: Scope) -> Connection:
    """Return the connection of a request; one that is always writable under other servers."""
    return scope.get("extensions", {}).get(CONNECTION) or _Unknown()


class HttpProtocol(HttpToolsProtocol):
    """One connection. `protocol_class` sets its times."""

    write_timeout_s: ClassVar[float] = WRITE_TIMEOUT_S
    head_timeout_s: ClassVar[float] = HEAD_TIMEOUT_S

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._running: RequestResponseCycle | None = None
        self._watch: WriteWatch | None = None
        self._head = HeadWatch(self.loop, self.head_timeout_s, self._late)
        self._upgrading = False
        self._to_websocket = False

    # --- the connection as answers see it --------------------------------------

    def writable(self) -> bool:
        """False while bytes wait because the client does not read."""
        return not self.flow.write_paused

    def abort(self) -> None:
        """Close at once; what waits to be sent is dropped."""
        self.transport.abort()

    # --- a client that stops reading --------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the new connection."""
        super().connection_made(transport)
        self._watch = WriteWatch(transport, self.loop, self.write_timeout_s)
        self._head.start()

    def pause_writing(self) -> None:
        """The client reads too slowly: from now on it must at least read something."""
        super().pause_writing()
        if self._watch is not None:
            self._watch.start()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._watch is not None and self._busy():
            self._watch.stop()

    def on_response_complete(self) -> None:
        """The answer is written: what the transport still holds must go, too."""
        super().on_response_complete()
        if self._watch is not None and not self._busy():
            self._watch.start()
        if self._busy():
            return
        if self._head.in_body:
            self._head.start()  # the rest of a body that nobody waits for any more
        elif not self._head.in_head:
            self._head.stop()  # of a line's end that came meanwhile; keep-alive has begun anew

    def _busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    # --- a client that goes -------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the running request, which need not be the last one parsed."""
        if self._watch is not None:
            self._watch.stop()
        self._head.stop()
        running = self._running
        super().connection_lost(exc)
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if self._watch is not None and self.writable():
            self._watch.stop()
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._head.body()
        super().on_body(body)
        self._read_on()

    def _read_on(self) -> None:
        """Keep reading behind pipelined requests: a paused transport cannot see the client go."""
        if self.pipeline and len(self.pipeline) <= MAX_PIPELINED:
            waiting = sum(len(cycle.body) for cycle, _ in self.pipeline)
            if waiting <= MAX_PIPELINED_BYTES:
                self.flow.resume_reading()

    # --- heads of requests --------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Take a part of the request line."""
        self._head.line(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field; a trailer is dropped, as whoever asks for headers has done so."""
        self._head.field(len(name) + len(value))
        if self._head.in_head:
            super().on_header(name, value)

    def _late(self) -> None:
        """What was to come has not come in time."""
        if self._busy():
            if self._head.in_head or self._head.in_body:
                self._head.start()
        elif self._head.in_head:
            message = f"The headers did not arrive within {self.head_timeout_s:g} s."
            self._refuse(408, "request_timeout", message)
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        limits = f"{MAX_HEADERS} fields or {MAX_HEAD_BYTES} bytes"
        self._refuse(431, "headers_too_large", f"The request's headers are more than {limits}.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Reply to what is no request yet, or not all of one, and close."""
        self._head.stop()
        if self._may_refuse():
            told = {"message": message, "type": "invalid_request_error"}
            body = msgspec.json.encode({"error": {**told, "param": None, "code": code}})
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d"
            self.transport.write(STATUS_LINE[status] + head % len(body) + b"\r\n\r\n" + body)
        self.transport.close()

    def _may_refuse(self) -> bool:
        """Whether a reply would not stand in the midst of another, or for another's."""
        running = self._running
        if running is None or running.response_complete:
            return True
        if running is not self.cycle or running.response_started or not self._head.in_body:
            return False
        # The body is the request's last part: what answers it must not, now.
        running.disconnected = True
        running.message_event.set()
        return True

    # --- upgrades -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request; its answer may ask for the connection."""
        super().on_message_begin()
        self._head.begin()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {CONNECTION: self, **extensions_of(self.transport)}

    def on_headers_complete(self) -> None:
        """Start the request, unless it is read again without its `Upgrade`, or its last here."""
        self._head.complete()
        self._upgrading = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        # An answer that is still being written, or a body, leaves no room for another protocol.
        self._to_websocket = (
            self._upgrading
            and self.parser.get_method() == b"GET"
            and self._should_upgrade()
            and not (self._busy() or self._has_body())
        )
        if self._to_websocket:
            super().on_headers_complete()
        elif not self._upgrading:
            super().on_headers_complete()
            self._read_on()

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )

    def on_message_complete(self) -> None:
        """End the request's body."""
        self._head.end()
        if not self._upgrading:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._unset_keepalive_if_required()
        rest: bytes | None = data
        while rest is not None:
            rest = self._feed(rest)
        self._wait_for_next()

    def _wait_for_next(self) -> None:
        """Keep alive no longer than others what sent the rest of an answered request's body."""
        awaited = self._busy() or self.pipeline or self._head.awaits or self._to_websocket
        if not (awaited or self.timeout_keep_alive_task or self.transport.is_closing()):
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _feed(self, data: bytes) -> bytes | None:
        """Parse; what must be parsed after that, if anything."""
        try:
            self.parser.feed_data(data)
            self._head.fed(len(data))
        except (HeadTooLarge, httptools.HttpParserError):
            # The parser has an error of its own for what is raised while it tells of a field.
            if self._head.too_large:
                self._refuse_head()
            else:
                self._refuse(400, "invalid_http", "The request is not valid HTTP.")
        except httptools.HttpParserUpgrade as upgrade:
            if self._to_websocket:
                self._hand_over(data[upgrade.args[0] :])
                return None
            if self._upgrading:
                return self._head_without_upgrade() + data[upgrade.args[0] :]
            self.cycle.keep_alive = False  # CONNECT: what follows is not HTTP.
        return None

    def _hand_over(self, early: bytes) -> None:
        """Let the WebSocket protocol answer; frames may only come after its answer."""
        if early:
            message = "Data came before the handshake was answered."
            self._refuse(400, "invalid_handshake", message)
            return
        longest = max(len(name) + len(value) for name, value in [(b"", self.url), *self.headers])
        if longest > MAX_HANDSHAKE_LINE_BYTES:  # there the handshake would never be answered
            message = f"A header of a WebSocket has more than {MAX_HANDSHAKE_LINE_BYTES} bytes."
            self._refuse(431, "headers_too_large", message)
            return
        if self._watch is not None:
            self._watch.stop()
        self._head.stop()
        self.handle_websocket_upgrade()

    def _head_without_upgrade(self) -> bytes:
        """Return the head just parsed, with no upgrade in it, for a fresh parser.

        The parser skips the body of every request that asks for an upgrade. RFC 9110 section
        7.8 lets a server ignore the wish, and Java's client sends it with every first request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        lines += [b"%s: %s" % header for header in _without_upgrade(self.headers)]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _without_upgrade(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            kept = [token for token in tokens if token.lower() not in _UPGRADE_HEADERS]
            yield name, b", ".join(kept)
        elif name not in _UPGRADE_HEADERS:
            yield name, value


def protocol_class(
    write_timeout_s: float = WRITE_TIMEOUT_S, head_timeout_s: float = HEAD_TIMEOUT_S
) -> type[HttpProtocol]:
    """Return the protocol for uvicorn's `http` setting.

    Args:
        write_timeout_s: a client that takes none of the waiting bytes for so long is cut.
        head_timeout_s: a client that takes longer to send a request's head is cut.
    """
    times = {"write_timeout_s": write_timeout_s, "head_timeout_s": head_timeout_s}
    return type("HttpProtocol", (HttpProtocol,), times)
