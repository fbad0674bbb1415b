"""Who is behind a request: the owner of its key, the client within, its lane and its session."""

from collections.abc import Callable, Mapping

from starlette.requests import HTTPConnection

from opta_lmx.api.json_body import Head
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.principal import Caller, Lane, Principal, Scope

PRINCIPAL = "opta_lmx.principal"
"""Where the guard leaves the owner of the key in a connection's scope."""
OWNER = "opta_lmx.owner"
"""Where it leaves, for a WebSocket and on operators' routes, what finds the owner anew: meanwhile
the key may be revoked, or the first one made."""
ENDS = "opta_lmx.ends"
"""Where it leaves when the key that was shown ends, in UTC milliseconds; None for never."""
KNOWN = "opta_lmx.known"
"""Where it leaves whose key was shown, also where that is refused: for the audit log."""
REQUEST_ID = "opta_lmx.request_id"
"""Where it leaves the id of a request."""
CLIENT_HEADERS = ("x-client-id", "x-openclaw-agent-id")
"""Where a caller names itself, in the order it is believed; then the body's user, the address."""
SESSION_HEADERS = (
    "x-session-affinity",
    "session_id",
    "x-openclaw-session-key",
    "x-client-request-id",
)
"""Where clients name the session a call belongs to, in the order they are believed."""
MAX_CLIENT = 128
MAX_SESSION = 256

LANES = {
    "interactive": Lane.INTERACTIVE,
    "agent": Lane.AGENT,
    "throughput": Lane.AGENT,
    "background": Lane.BACKGROUND,
}
PRIORITIES = {
    "high": Lane.INTERACTIVE,
    "interactive": Lane.INTERACTIVE,
    "normal": Lane.AGENT,
    "low": Lane.BACKGROUND,
    "batch": Lane.BACKGROUND,
    "background": Lane.BACKGROUND,
}
LANE_HEADERS = (("x-serving-lane", LANES), ("x-priority", PRIORITIES))
"""Where a caller asks for a lane, and its words; the first header there is counts."""


def caller_of(connection: HTTPConnection, head: Head) -> Caller:
    """The caller of a request.

    Args:
        connection: the request, or the WebSocket it came over.
        head: what the body says at first sight.

    Raises:
        LmxError: INVALID_REQUEST `invalid_header` naming a header that asks for no known lane.
            What `principal_of` raises.
    """
    principal = principal_of(connection)
    headers = connection.headers
    # A header lowers the lane its key may use, and never raises it.
    lane = max(principal.lane, *(asked_lanes(headers)[:1] or [principal.lane]))
    session = head.session[:MAX_SESSION] or session_in(headers)
    return Caller(principal, _client(connection, head), lane, session)


def principal_of(connection: HTTPConnection) -> Principal:
    """The owner of the key that a connection has shown; anybody where no key is asked for.

    Raises:
        LmxError: UNAUTHENTICATED, FORBIDDEN; the key of an open WebSocket is good no more, or
            one is needed by now.
    """
    anew: Callable[[], Principal] | None = connection.scope.get(OWNER)
    if anew is not None:
        return anew()
    return connection.scope.get(PRINCIPAL) or Principal()


def require(connection: HTTPConnection, scope: Scope) -> None:
    """Raise FORBIDDEN `insufficient_scope` unless the key was given a scope beyond the route's."""
    if scope not in principal_of(connection).scopes:
        raise insufficient_scope(scope)


def insufficient_scope(scope: Scope) -> LmxError:
    """Build the error of a key that is good, but not for this."""
    return LmxError(
        ErrorKind.FORBIDDEN,
        f"This key may not be used here: it was not given the scope '{scope.value}'.",
        code="insufficient_scope",
    )


def asked_lanes(headers: Mapping[str, str]) -> list[Lane]:
    """The lanes that headers ask for, the one that counts first. Raises as `caller_of`."""
    return [_lane(name, headers[name], words) for name, words in LANE_HEADERS if name in headers]


def session_in(headers: Mapping[str, str]) -> str | None:
    """The session that headers name; None where they name none."""
    found = (headers.get(name, "") for name in SESSION_HEADERS)
    return next((value[:MAX_SESSION] for value in found if value), None)


def _client(connection: HTTPConnection, head: Head) -> str:
    address = "" if connection.client is None else connection.client.host
    named = (connection.headers.get(name, "") for name in CLIENT_HEADERS)
    told = (_cleaned(name) for name in (*named, head.user, address))
    return next((name for name in told if name), "")


def _cleaned(name: str) -> str:
    """A name without what cannot be printed, and not too long."""
    return "".join(char for char in name if char.isprintable()).strip()[:MAX_CLIENT]


def _lane(name: str, word: str, words: Mapping[str, Lane]) -> Lane:
    lane = words.get(word.strip().lower())
    if lane is None:
        raise _unknown(name, words)
    return lane


def _unknown(name: str, words: Mapping[str, Lane]) -> LmxError:
    known = ", ".join(f"'{word}'" for word in words)
    return invalid(
        f"The header '{name}' must be one of {known}.", param=name, code="invalid_header"
    )
