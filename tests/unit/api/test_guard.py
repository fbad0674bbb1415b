"""The guard on its own: names as clients spell them, what is counted, what never passes."""

import asyncio
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from opta_lmx.api.callers import PRINCIPAL
from opta_lmx.api.door import Door as Entrance
from opta_lmx.api.door import DoorRules
from opta_lmx.api.errors import Envelopes
from opta_lmx.api.guard import Guard
from opta_lmx.api.openai.errors import render
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.security.failures import AuthFailures
from opta_lmx.tenancy.keyring import Keyring


class Counting(NullTelemetry):
    """Keeps the requests counted."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if name == "requests_total":
            self.requests.append(labels)


class Inner:
    """The application behind the guard; answers 200 unless told to break."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Door:
    """A guard, what is behind it, and what it counted."""

    def __init__(
        self,
        *allowed: str,
        inner: Inner | None = None,
        keys: tuple[tuple[str, Principal], ...] = (),
    ) -> None:
        self.inner = inner or Inner()
        self.telemetry = Counting()
        clock = SystemClock()
        keyring = Keyring(keys, None, clock, required=False)
        rules = DoorRules(allowed_hosts=frozenset(allowed))
        entrance = Entrance(rules, keyring, AuthFailures(clock, 20))
        self._guard = Guard(self.inner, entrance, Envelopes(render), clock, self.telemetry)

    def ask(self, kind: str = "http", **headers: str) -> list[Message]:
        """Send one request; all messages of the reply."""
        sent: list[Message] = []
        raw = [(name.encode(), text.encode("latin-1")) for name, text in headers.items()]
        scope: dict[str, Any] = {"type": kind, "method": "GET", "path": "/x", "headers": raw}

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self._guard(scope, receive, send))
        return sent

    def status(self, **headers: str) -> int:
        """The status of the reply to one request."""
        return self.ask(**headers)[0]["status"]


@pytest.mark.parametrize("host", ["[::1", "[x]:1", "[", "", "evil.example", "localhost.evil"])
def test_a_host_that_is_malformed_or_foreign_is_refused(host: str) -> None:
    start, body = Door().ask(host=host)
    assert start["status"] == 403
    assert b'"host_not_allowed"' in body["body"]


@pytest.mark.parametrize("origin", ["http://[", "http://[x]", "null", "http://evil.example"])
def test_an_origin_that_is_malformed_or_foreign_is_refused(origin: str) -> None:
    start, body = Door().ask(origin=origin)
    assert start["status"] == 403
    assert b'"origin_not_allowed"' in body["body"]


@given(st.text(st.characters(max_codepoint=255)))
def test_no_header_breaks_the_guard(text: str) -> None:
    assert Door().status(host=text) in (200, 403)
    assert Door().status(origin=text) in (200, 403)


@pytest.mark.parametrize(
    "host", ["LocalHost:1", "localhost.", "[::1]:1", "127.0.0.1.", "BOX.local.:1234", "127.0.0.2"]
)
def test_a_name_is_the_same_in_any_spelling(host: str) -> None:
    door = Door("Box.Local", "127.0.0.2")
    assert door.status(host=host) == 200
    assert door.status(origin=f"http://{host}") == 200
    assert Door("box.local.", "[0::1]").status(host="box.local") == 200


def test_a_request_without_a_host_passes() -> None:
    assert Door().status() == 200


@pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError()])
def test_a_request_that_breaks_is_counted(error: BaseException) -> None:
    door = Door()
    door.inner.error = error
    with pytest.raises(type(error)):
        door.ask()
    assert [labels["code"] for labels in door.telemetry.requests] == ["499"]


def test_a_websocket_under_a_foreign_name_never_passes() -> None:
    door = Door()
    sent = door.ask("websocket", host="evil.example")
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert door.inner.scopes == []


KEYS = tuple((f"secret-{name}", Principal(key=name, weight=2.0)) for name in ("a", "b", "c"))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_key_makes_known_whose_it_is(place: int, kind: str) -> None:
    secret, owner = KEYS[place]
    door = Door(keys=KEYS)
    door.ask(kind, authorization=f"Bearer {secret}")
    door.ask(kind, **{"x-api-key": secret})
    assert [scope[PRINCIPAL] for scope in door.inner.scopes] == [owner, owner]


@pytest.mark.parametrize("shown", ["", "secret-", "secret-d", "a", "secret-a,secret-b", "\xe9"])
def test_what_is_no_key_names_nobody(shown: str) -> None:
    door = Door(keys=KEYS)
    assert door.status(authorization=f"Bearer {shown}") == 401
    assert door.inner.scopes == []


def test_without_keys_nobody_is_named() -> None:
    door = Door()
    door.ask(authorization="Bearer secret-a")
    assert PRINCIPAL not in door.inner.scopes[0]


def test_the_log_names_the_key_and_never_shows_it() -> None:
    bound: list[dict[str, Any]] = []

    class Looking(Inner):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            bound.append(dict(structlog.contextvars.get_contextvars()))
            await super().__call__(scope, receive, send)

    Door(inner=Looking(), keys=KEYS).ask(authorization="Bearer secret-b")
    assert bound[0]["key"] == "b"
    assert "secret" not in str(bound)


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"01-{TRACE}-b7ad6b7169203331-01-later", TRACE),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", None),
        ("nonsense", None),
    ],
)
def test_the_log_names_the_clients_trace(header: str, expected: str | None) -> None:
    bound: list[dict[str, Any]] = []

    class Looking(Inner):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            bound.append(dict(structlog.contextvars.get_contextvars()))
            await super().__call__(scope, receive, send)

    door = Door(inner=Looking())
    door.ask(traceparent=header)
    door.ask()
    assert [context.get("trace_id") for context in bound] == [expected, None]
