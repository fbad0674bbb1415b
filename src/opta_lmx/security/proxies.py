"""In front of everything: a request that came through proxies gets its client's address back."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opta_lmx.core.errors import LmxError
from opta_lmx.security.addresses import Networks, peer_address
from opta_lmx.security.forwarded import client_address

PASSED_ON = "opta_lmx.passed_on"
"""In the scope of a request that came through a trusted proxy, and that says so itself."""

REFUSED = "opta_lmx.forwarding_refused"
"""In the scope of a request whose headers do not tell who asks: the LmxError that refuses it.

Not answered here: the guard tells it in the dialect's envelope, under an id, and counts it.
"""

_NO_PORT = 0
_MARKS = ("forwarded", "x-real-ip", "via")
_MARKS_BEGIN = "x-forwarded-"
_SCHEMES = {
    "http": {"http": "http", "https": "https", "ws": "http", "wss": "https"},
    "websocket": {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"},
}


class TrustedProxies:
    """Plain ASGI middleware, for HTTP and WebSocket; the outermost one.

    Sets `client` of the scope (its port is 0 then, being unknown), and `scheme` from the
    `X-Forwarded-Proto` of the proxy that the connection comes from. What shows that it was passed
    on gets `PASSED_ON`: it is not from the machine that its address names.

    Args:
        app: what answers, and refuses what has `REFUSED` in its scope.
        trusted: proxies; without any, nothing is changed.
    """

    def __init__(self, app: ASGIApp, trusted: Networks) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say who asks, pass on."""
        if self._trusted and scope["type"] in _SCHEMES and scope.get("client"):
            try:
                self._identify(scope)
            except LmxError as error:
                scope[REFUSED] = error
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope) -> None:
        peer = scope["client"][0]
        if peer_address(peer) not in self._trusted:
            return
        headers = Headers(scope=scope)
        if any(name in _MARKS or name.startswith(_MARKS_BEGIN) for name in headers):
            scope[PASSED_ON] = True
        told = headers.getlist("forwarded"), headers.getlist("x-forwarded-for")
        client = client_address(peer, *told, self._trusted)
        if client != peer:
            scope["client"] = (client, _NO_PORT)
        protocols = ",".join(headers.getlist("x-forwarded-proto"))
        # The last one: any before it may be the client's own.
        named = protocols.rpartition(",")[2].strip().lower()
        scope["scheme"] = _SCHEMES[scope["type"]].get(named, scope["scheme"])
