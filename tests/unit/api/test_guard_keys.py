"""Keys at the door: where they are shown, what they were given for, from where, how often wrong."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from opta_lmx.api.callers import PRINCIPAL, principal_of
from opta_lmx.api.door import Door, DoorRules
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal, Scope
from opta_lmx.security.addresses import Networks
from opta_lmx.security.failures import AuthFailures
from opta_lmx.security.proxies import TrustedProxies
from opta_lmx.tenancy.keyring import Keyring
from tests.support.clocks import HandClock

ADMIN, ASKING, WATCHING = "of-an-operator", "of-a-bot", "of-a-watcher"
KEYS = [
    (ADMIN, Principal(key="operator")),
    (ASKING, Principal(key="bot", scopes=frozenset({Scope.INFERENCE}))),
    (WATCHING, Principal(key="watcher", scopes=frozenset({Scope.METRICS}))),
]
PATHS = {
    "/v1/models": Scope.INFERENCE,
    "/metrics": Scope.METRICS,
    "/admin/status": Scope.ADMIN,
    "/api/tags": Scope.INFERENCE,
}


class Place:
    """A door and its clock."""

    def __init__(self, *, limit: int = 3, remote_admin: bool = True, required: bool = True) -> None:
        self.clock = HandClock()
        keyring = Keyring(KEYS if required else [], None, self.clock, required=required)
        rules = DoorRules(remote_admin=remote_admin)
        self.door = Door(rules, keyring, AuthFailures(self.clock, limit))

    def ask(
        self, path: str = "/v1/models", address: str = "10.0.0.1", query: bytes = b"", **shown: str
    ) -> str:
        """Whose key it was, or the code of the refusal."""
        raw = [(name.replace("_", "-").encode(), text.encode()) for name, text in shown.items()]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query,
            "headers": raw,
            "client": (address, 1),
        }
        self.error: LmxError | None = None
        try:
            self.door.check(scope, Headers(scope=scope))
        except LmxError as error:
            self.error = error
            return error.code
        self.owner: Principal | None = scope.get(PRINCIPAL)
        return "anybody" if self.owner is None else self.owner.key


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("secret", "owner"), KEYS)
def test_a_key_opens_what_it_was_given_for(path: str, secret: str, owner: Principal) -> None:
    place = Place()
    said = place.ask(path, authorization=f"Bearer {secret}")
    if PATHS[path] in owner.scopes:
        assert said == owner.key
        return
    assert said == "insufficient_scope"
    assert place.error is not None
    assert place.error.kind is ErrorKind.FORBIDDEN
    assert f"'{PATHS[path].value}'" in place.error.message


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"x_api_key": ASKING}, "bot"),
        ({"x_admin_key": ASKING}, "bot"),
        ({"authorization": f"bearer  {ASKING} "}, "bot"),
        ({"authorization": f"Basic {ASKING}", "x_api_key": ASKING}, "bot"),
        ({"authorization": f"Bearer {ASKING}", "x_api_key": WATCHING}, "bot"),
        ({"x_api_key": ASKING, "x_admin_key": ADMIN}, "bot"),
        ({"authorization": f"Bearer {ASKING}", "x_admin_key": "wrong"}, "bot"),
        ({"authorization": "Bearer", "x_api_key": ASKING}, "invalid_api_key"),
        ({"authorization": ASKING}, "invalid_api_key"),
        ({"authorization": f"Basic {ASKING}"}, "invalid_api_key"),
        ({"cookie": f"key={ASKING}"}, "invalid_api_key"),
        ({}, "invalid_api_key"),
    ],
)
def test_where_a_key_is_shown(shown: dict[str, str], said: str) -> None:
    assert Place().ask(**shown) == said


def test_an_operators_header_goes_first_on_operators_routes() -> None:
    both = {"authorization": f"Bearer {ASKING}", "x_admin_key": ADMIN}
    assert Place().ask("/admin/status", **both) == "operator"
    assert Place().ask("/v1/models", **both) == "bot"
    wrong = {"authorization": f"Bearer {ADMIN}", "x_admin_key": "wrong"}
    assert Place().ask("/admin/status", **wrong) == "invalid_api_key"


@pytest.mark.parametrize("name", ["key", "api_key", "x-api-key", "access_token"])
def test_a_key_in_the_address_is_no_key(name: str) -> None:
    assert Place().ask(query=f"{name}={ADMIN}".encode()) == "invalid_api_key"


def test_paths_nobody_serves_need_a_key_of_any_scope() -> None:
    place = Place()
    for path in ("/nowhere", "/readyz", "/openapi.json"):
        assert place.ask(path) == "invalid_api_key"
        assert place.ask(path, x_api_key=WATCHING) == "watcher"
    assert place.ask("/healthz") == "anybody"


def test_who_guesses_is_told_to_wait_and_the_right_key_passes_all_the_same() -> None:
    place = Place(limit=3)
    for _ in range(3):
        assert place.ask(x_api_key="wrong") == "invalid_api_key"
    assert place.ask(x_api_key="wrong") == "too_many_auth_failures"
    assert place.error is not None
    assert place.error.kind is ErrorKind.RATE_LIMITED
    assert place.error.retry_after == pytest.approx(60)
    assert place.ask(x_api_key=ASKING) == "bot"
    assert place.ask() == "invalid_api_key", "asking without a key is no guess"
    assert place.ask(x_api_key="wrong", address="10.0.0.2") == "invalid_api_key"
    place.clock.now += 60.1
    assert place.ask(x_api_key="wrong") == "invalid_api_key"


@pytest.mark.parametrize("address", ["10.0.0.1", "::2", "::ffff:10.0.0.1", "", "localhost"])
def test_where_only_the_machine_itself_administers_others_do_not(address: str) -> None:
    place = Place(remote_admin=False)
    assert place.ask("/admin/status", address, x_api_key=ADMIN) == "admin_not_from_here"
    assert place.ask("/admin/status", address, x_api_key=ASKING) == "insufficient_scope"
    assert place.ask("/v1/models", address, x_api_key=ADMIN) == "operator"
    assert place.owner is not None
    assert Scope.ADMIN not in place.owner.scopes, "nor may a route that asks for it later"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_the_machine_itself_administers(address: str) -> None:
    place = Place(remote_admin=False)
    assert place.ask("/admin/status", address, x_api_key=ADMIN) == "operator"
    assert place.ask("/v1/models", address, x_api_key=ADMIN) == "operator"
    assert place.owner == KEYS[0][1]
    keyless = Place(remote_admin=False, required=False)
    assert keyless.ask("/admin/status", address) == "anybody"
    assert keyless.ask("/admin/status", "10.0.0.1") == "admin_not_from_here"


@pytest.mark.parametrize("far", [{}, {"client": ("10.0.0.5", 9)}])
def test_nobody_behind_a_proxy_is_this_machine(far: dict[str, Any]) -> None:
    """A client in a trusted network writes the loopback address to the left of its own."""
    place = Place(remote_admin=False)
    networks = Networks.parse(["127.0.0.1", "10.0.0.0/8"])
    said: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        try:
            place.door.check(scope, Headers(scope=scope))
        except LmxError as error:
            said.append(error.code)

    headers = [(b"x-api-key", ADMIN.encode()), (b"x-forwarded-for", b"127.0.0.1, 10.0.0.5")]
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "method": "GET",
        "path": "/admin/status",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        **far,
    }
    asyncio.run(TrustedProxies(app, networks)(scope, unused, unused))
    assert scope["client"][0] == "127.0.0.1"
    assert said == ["admin_not_from_here"]


async def unused(*_: Any) -> Any:
    """Nothing is received or sent by a door alone."""
    raise AssertionError


@given(st.dictionaries(st.sampled_from(["authorization", "x_api_key", "x_admin_key"]), st.text()))
def test_nothing_but_a_key_opens(shown: dict[str, str]) -> None:
    place = Place(limit=1000)
    said = place.ask("/admin/status", **shown)
    assert said == "invalid_api_key"


@pytest.mark.parametrize(
    ("kind", "path"), [("websocket", "/v1/responses"), ("http", "/admin/keys")]
)
def test_who_came_before_the_first_key_does_not_stay_inside(kind: str, path: str) -> None:
    place = Place(required=False)
    scope: dict[str, Any] = {"type": kind, "method": "POST", "path": path, "headers": []}
    scope["client"] = ("127.0.0.1", 1)
    place.door.check(scope, Headers(scope=scope))
    connection = HTTPConnection({**scope, "type": "http"})
    assert principal_of(connection) == Principal()
    place.door._keyring._required = True
    with pytest.raises(LmxError) as refused:
        principal_of(connection)
    assert refused.value.code == "invalid_api_key"
