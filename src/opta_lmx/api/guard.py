"""Every request passes here first: who may ask, under which id, and what came of it."""

import hmac
import ipaddress
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.core.telemetry import Telemetry

RenderError = Callable[[LmxError], tuple[int, dict[str, str], bytes]]
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_OPEN_PATHS = frozenset({"/healthz"})
_MAX_REQUEST_ID = 128
_POLICY_VIOLATION = 1008
_SHOWN = 200


class GuardRules(msgspec.Struct, frozen=True):
    """Keys that open the door (none: it is open), and names the server answers to.

    `allowed_hosts` are names besides the usual loopback ones, compared without regard to case
    and to a dot at the end. `check_host` is on while the server listens on loopback only, where
    a web page could otherwise reach it through a name of its own that resolves here.
    """

    api_keys: tuple[str, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    check_host: bool = True


class Guard:
    """Plain ASGI middleware: host and origin, key, request id, counters."""

    def __init__(
        self,
        app: ASGIApp,
        rules: GuardRules,
        render: RenderError,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._app = app
        self._rules = rules
        self._names = _LOOPBACK_NAMES | {_plain_name(name) for name in rules.allowed_hosts}
        self._render = render
        self._clock = clock
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, count."""
        if scope["type"] == "websocket":
            # No route speaks it, and nothing may pass unchecked.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, Headers(scope=scope), self._clock)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        try:
            await self._pass(exchange, scope, receive, send)
        finally:
            exchange.report(self._telemetry)

    async def _pass(
        self, exchange: "_Exchange", scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            self._check(scope, exchange.headers)
        except LmxError as error:
            status, extra, body = self._render(error)
            await _reply(exchange.sending(send), status, extra, body)
        else:
            await self._app(scope, exchange.receiving(receive), exchange.sending(send))

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._rules.check_host:
            self._check_names(headers)
        if self._rules.api_keys and scope["path"] not in _OPEN_PATHS:
            _check_key(headers, self._rules.api_keys)

    def _check_names(self, headers: Headers) -> None:
        host = headers.get("host", "localhost")
        if _name_in("//" + host) not in self._names:
            raise LmxError(
                ErrorKind.FORBIDDEN,
                f"This server does not answer to the host name '{host[:_SHOWN]}'.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and _name_in(origin) not in self._names:
            raise LmxError(
                ErrorKind.FORBIDDEN,
                "Requests from this web origin are refused.",
                code="origin_not_allowed",
            )


def _name_in(url: str) -> str | None:
    """The host of a URL; None when there is none, or the URL is malformed."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return _plain_name(host) if host else None


def _plain_name(host: str) -> str:
    """One spelling of a host: its case, a dot at the end and brackets say nothing."""
    name = host.casefold().removesuffix(".")
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return name


def _check_key(headers: Headers, keys: Sequence[str]) -> None:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    shown = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    matches = [hmac.compare_digest(shown.encode(), key.encode()) for key in keys]
    if not any(matches):
        raise LmxError(
            ErrorKind.UNAUTHENTICATED,
            "A valid API key is required: Authorization: Bearer KEY.",
            code="invalid_api_key",
        )


class _Exchange:
    """Watches one request and its reply go by."""

    def __init__(self, scope: Scope, headers: Headers, clock: Clock) -> None:
        self._scope = scope
        self.headers = headers
        self._clock = clock
        offered = headers.get("x-request-id", "")
        usable = 0 < len(offered) <= _MAX_REQUEST_ID and offered.isascii() and offered.isprintable()
        self.request_id = offered if usable else random_id("req-")
        self._status = 0
        self._read_at = clock.monotonic()
        self._first_byte_s = 0.0

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
                self._status = message["status"]
                self._first_byte_s = self._clock.monotonic() - self._read_at
                message = {
                    **message,
                    "headers": [
                        *message.get("headers", []),
                        (b"x-request-id", self.request_id.encode()),
                    ],
                }
            await send(message)

        return watched

    def report(self, telemetry: Telemetry) -> None:
        route = getattr(self._scope.get("route"), "path", "unmatched")
        code = str(self._status or 499)
        telemetry.count("requests_total", route=route, code=code)
        if self._status:
            telemetry.observe("first_byte_seconds", self._first_byte_s, route=route, code=code)
        if self._scope.get("opta_lmx.client_gone"):
            telemetry.count("client_disconnects_total", route=route)
        telemetry.log("debug", "request", route=route, code=code, path=self._scope["path"])


async def _reply(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
