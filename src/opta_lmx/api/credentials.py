"""The key that a connection shows, wherever it may: in headers, or beside a socket's protocol.

Never in the address: that stands in logs, histories and the `Referer` of the next request.
"""

from starlette.datastructures import Headers
from starlette.types import Scope

from opta_lmx.core.errors import invalid

KEY_PROTOCOL = "lmx-key."
"""A browser can give a WebSocket no headers, but names of protocols: this and the key is one."""
_ADMIN_HEADER = "x-admin-key"


def shown_key(scope: Scope, headers: Headers, *, admin: bool) -> str:
    """The key a connection shows; empty for none.

    A bearer's goes before `X-Api-Key`, and this before `X-Admin-Key`, which goes first where an
    operator's route is asked for: a client's library may send a key of its own with everything.

    Args:
        scope: of the connection.
        headers: of it.
        admin: the route is an operator's.

    Raises:
        LmxError: INVALID_REQUEST `invalid_header` for a key among a socket's protocols that
            stands alone: nothing could be answered but the key itself.
    """
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    operators = headers.get(_ADMIN_HEADER, "")
    if operators and admin:
        return operators
    if scheme.lower() == "bearer":
        return bearer.strip()
    return headers.get("x-api-key", "") or operators or _offered_key(scope)


def _offered_key(scope: Scope) -> str:
    offered = _offered(scope)
    key = next((name for name in offered if name.startswith(KEY_PROTOCOL)), "")
    if key and protocol_beside_key(scope) is None:
        raise invalid(
            f"Offer the name of a protocol beside '{KEY_PROTOCOL}…': it is what is answered.",
            param="sec-websocket-protocol",
            code="invalid_header",
        )
    return key.removeprefix(KEY_PROTOCOL)


def protocol_beside_key(scope: Scope) -> str | None:
    """What a handshake is answered with that offers a key among its protocols: another of them.

    A browser closes a socket that was answered with none of those it offered.
    """
    offered = _offered(scope)
    if not any(name.startswith(KEY_PROTOCOL) for name in offered):
        return None
    return next((name for name in offered if not name.startswith(KEY_PROTOCOL)), None)


def _offered(scope: Scope) -> list[str]:
    return scope.get("subprotocols", []) if scope["type"] == "websocket" else []
