"""The key that a connection shows, wherever it may: in headers, or beside a socket's protocol.

Never in the address: that stands in logs, histories and the `Referer` of the next request. A
ticket, which opens one socket once, may stand there.
"""

from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import Scope

from opta_lmx.core.errors import invalid

KEY_PROTOCOL = "lmx-key."
"""A browser can give a WebSocket no headers, but names of protocols: this and the key is one."""
TICKET_PROTOCOL = "lmx-ticket."
"""The same for a ticket (`api.tickets`)."""
_ADMIN_HEADER = "x-admin-key"
_SHOWN = (KEY_PROTOCOL, TICKET_PROTOCOL)
_MAX_PARAMETERS = 32


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


def shown_ticket(scope: Scope) -> str:
    """The ticket that a WebSocket's handshake shows; empty for none. Raises as `shown_key`."""
    if scope["type"] != "websocket":
        return ""
    return _offered_behind(TICKET_PROTOCOL, scope) or _ticket_in_address(scope)


def _ticket_in_address(scope: Scope) -> str:
    try:
        query = scope.get("query_string", b"").decode("latin-1")
        found = parse_qs(query, max_num_fields=_MAX_PARAMETERS).get("ticket", [])
    except ValueError:
        return ""
    return found[0] if len(found) == 1 else ""


def _offered_key(scope: Scope) -> str:
    return _offered_behind(KEY_PROTOCOL, scope)


def _offered_behind(prefix: str, scope: Scope) -> str:
    offered = _offered(scope)
    found = next((name for name in offered if name.startswith(prefix)), "")
    if found and protocol_beside_key(scope) is None:
        raise invalid(
            f"Offer the name of a protocol beside '{prefix}…': it is what is answered.",
            param="sec-websocket-protocol",
            code="invalid_header",
        )
    return found.removeprefix(prefix)


def protocol_beside_key(scope: Scope) -> str | None:
    """What a handshake is answered with that offers a key or ticket as a protocol: another one.

    A browser closes a socket that was answered with none of those it offered.
    """
    offered = _offered(scope)
    if not any(name.startswith(_SHOWN) for name in offered):
        return None
    return next((name for name in offered if not name.startswith(_SHOWN)), None)


def _offered(scope: Scope) -> list[str]:
    return scope.get("subprotocols", []) if scope["type"] == "websocket" else []
