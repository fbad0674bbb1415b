"""Every request passes here first: may it come in, under which id, and what came of it."""

import re
from collections.abc import Awaitable, Callable

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opta_lmx.api.callers import REQUEST_ID
from opta_lmx.api.credentials import protocol_beside_key
from opta_lmx.api.door import Door
from opta_lmx.api.errors import Envelopes
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.security.proxies import REFUSED

_MAX_REQUEST_ID = 128
_POLICY_VIOLATION = 1008
_SWITCHING_PROTOCOLS = 101
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_NO_TRACE = "0" * 32


class Guard:
    """Plain ASGI middleware: the door, a request id, counters.

    Args:
        app: what answers whoever is let in.
        door: lets in.
        envelopes: how a refusal is told.
        clock: time.
        telemetry: told of every request.
        refused: told of everybody who is not let in, before that is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        envelopes: Envelopes,
        clock: Clock,
        telemetry: Telemetry,
        *,
        refused: Callable[[Scope, LmxError], Awaitable[None]] | None = None,
    ) -> None:
        self._app = app
        self._door = door
        self._envelopes = envelopes
        self._clock = clock
        self._telemetry = telemetry
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, count."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(
            scope, Headers(scope=scope), self._clock, self._telemetry, self._envelopes.mask
        )
        scope[REQUEST_ID] = exchange.request_id
        structlog.contextvars.clear_contextvars()
        known = {"request_id": exchange.request_id, **_trace(exchange.headers)}
        structlog.contextvars.bind_contextvars(**known)
        try:
            if scope["type"] == "http":
                await self._pass(exchange, scope, receive, exchange.sending(send))
            else:
                handshake = _Handshake(exchange, scope, self._envelopes, send)
                await self._pass(exchange, scope, receive, handshake.send)
        finally:
            exchange.report()

    async def _pass(
        self, exchange: "_Exchange", scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            self._check(scope, exchange.headers)
        except LmxError as error:
            if self._refused is not None:
                await self._refused(scope, error)
            await _refuse(scope, send, *self._envelopes.render(scope["path"], error))
        else:
            await self._app(scope, exchange.receiving(receive), send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        unclear = scope.get(REFUSED)
        if unclear is not None:
            self._telemetry.log("warning", "forwarded headers refused", code=unclear.code)
            raise unclear
        self._door.check(scope, headers)


def _trace(headers: Headers) -> dict[str, str]:
    """The trace a client counts its request to (W3C `traceparent`), for the log; or nothing."""
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    if found is None or found[1] == _NO_TRACE:
        return {}
    return {"trace_id": found[1]}


class _Exchange:
    """Watches one request and its reply go by."""

    def __init__(
        self,
        scope: Scope,
        headers: Headers,
        clock: Clock,
        telemetry: Telemetry,
        mask: Callable[[str], str],
    ) -> None:
        self._scope = scope
        self.headers = headers
        self._clock = clock
        self._telemetry = telemetry
        offered = headers.get("x-request-id", "")
        usable = 0 < len(offered) <= _MAX_REQUEST_ID and offered.isascii() and offered.isprintable()
        # It is told in answers and in the log: a key that stands there by mistake is not.
        usable = usable and mask(offered) == offered
        self.request_id = offered if usable else random_id("req-")
        self._status = 0
        self._read_at = clock.monotonic()
        self._counted = False

    def receiving(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                self._read_at = self._clock.monotonic()
            return message

        return watched

    def sending(self, send: Send) -> Send:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = self.answered(message, message["status"])
            await send(message)

        return watched

    def answered(self, message: Message, status: int) -> Message:
        """Note the reply's status; the message with the request id among its headers."""
        self._status = status
        first_byte_s = self._clock.monotonic() - self._read_at
        self._telemetry.observe(
            "first_byte_seconds", first_byte_s, route=self._route, code=str(status)
        )
        request_id = (b"x-request-id", self.request_id.encode())
        return {**message, "headers": [*message.get("headers", []), request_id]}

    @property
    def _route(self) -> str:
        return getattr(self._scope.get("route"), "path", "unmatched")

    def count(self) -> None:
        """Count the request, once."""
        if self._counted:
            return
        self._counted = True
        route, code = self._route, str(self._status or 499)
        self._telemetry.count("requests_total", route=route, code=code)
        self._telemetry.log("debug", "request", route=route, code=code, path=self._scope["path"])

    def report(self) -> None:
        """The exchange is over."""
        self.count()
        if self._scope.get("opta_lmx.client_gone"):
            self._telemetry.count("client_disconnects_total", route=self._route)


class _Handshake:
    """Watches a WebSocket be opened or refused; a refusal is an HTTP reply like any other."""

    def __init__(self, exchange: _Exchange, scope: Scope, envelopes: Envelopes, send: Send) -> None:
        self._exchange = exchange
        self._scope = scope
        self._envelopes = envelopes
        self._send = send
        self._answered = False

    async def send(self, message: Message) -> None:
        if self._answered:
            await self._send(message)
        elif message["type"] == "websocket.accept":
            self._answered = True
            message = _answering_protocol(message, self._scope)
            await self._send(self._exchange.answered(message, _SWITCHING_PROTOCOLS))
            # Now, because the socket may live for days.
            self._exchange.count()
        elif message["type"] == "websocket.http.response.start":
            self._answered = True
            await self._send(self._exchange.answered(message, message["status"]))
        elif message["type"] == "websocket.close" and _can_reply(self._scope):
            error = self._closed()
            rendered = self._envelopes.render(self._scope["path"], error)
            await _refuse(self._scope, self.send, *rendered)
        else:
            await self._send(message)

    def _closed(self) -> LmxError:
        """Why the application closes a socket it has not accepted."""
        path = self._scope["path"]
        if self._scope.get("route") is None:
            return LmxError(ErrorKind.NOT_FOUND, f"Unknown path {path}.", code="unknown_path")
        return LmxError(ErrorKind.FORBIDDEN, f"A WebSocket on {path} is refused.")


def _answering_protocol(message: Message, scope: Scope) -> Message:
    """The message that accepts a socket, with the protocol that was offered beside a key."""
    protocol = protocol_beside_key(scope)
    if protocol is None or message.get("subprotocol"):
        return message
    return {**message, "subprotocol": protocol}


def _can_reply(scope: Scope) -> bool:
    return "websocket.http.response" in scope.get("extensions", {})


async def _refuse(
    scope: Scope, send: Send, status: int, headers: dict[str, str], body: bytes
) -> None:
    """Reply with an error, to a request or to a WebSocket's handshake."""
    kind = "http.response"
    if scope["type"] == "websocket":
        if not _can_reply(scope):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        kind = "websocket.http.response"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{kind}.start", "status": status, "headers": raw})
    await send({"type": f"{kind}.body", "body": body})
