"""Certificates at the door: what they stand for alone, beside a key, and when they have ended."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from opta_lmx.api.callers import ENDS, PRINCIPAL, principal_of
from opta_lmx.api.door import Door, DoorRules
from opta_lmx.api.tls import Certificates, Gateways
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal, Scope
from opta_lmx.security.failures import AuthFailures
from opta_lmx.security.proxies import PASSED_ON
from opta_lmx.security.tls.mapping import Rule
from opta_lmx.security.tls.session import PEER, Names, Peer, Trust
from opta_lmx.tenancy.keyring import Keyring
from tests.support.clocks import HandClock

T1 = "spiffe://opta/tenant/t1/"
GATEWAY = "spiffe://opta/gateway/edge"
BOT = Principal(tenant="t1", key="bot", scopes=frozenset({Scope.INFERENCE}))
BOSS = Principal(tenant="t1", key="boss")
KEYS = [
    ("key-t1", Principal(tenant="t1", key="k1")),
    ("key-t2", Principal(tenant="t2", key="k2")),
]
ENDS_S = 1000.0


class Place:
    """A door, its clock, and certificates that end at 1000 s."""

    def __init__(self, *, remote_admin: bool = True, required: bool = True) -> None:
        self.clock = HandClock()
        self.trust = Trust()
        keyring = Keyring(KEYS if required else [], None, self.clock, required=required)
        rules = [Rule("uri", T1 + "boss", BOSS), Rule("uri", T1 + "*", BOT)]
        known = Certificates(rules, Gateways((GATEWAY,)), self.clock)
        asked = DoorRules(remote_admin=remote_admin)
        self.door = Door(asked, keyring, AuthFailures(self.clock, 3), known)

    def scope(self, uri: str | None, path: str = "/v1/models", kind: str = "http") -> Any:
        scope: dict[str, Any] = {
            "type": kind,
            "method": "GET",
            "path": path,
            "headers": [],
            "client": ("127.0.0.1", 1),
            "extensions": {},
        }
        if uri is not None:
            peer = Peer(Names(uris=(uri,)), int(ENDS_S * 1000), self.trust)
            scope["extensions"][PEER] = peer
        return scope

    def enter(self, scope: Any, **headers: str) -> Principal:
        shown = {name.replace("_", "-"): text for name, text in headers.items()}
        self.door.check(scope, Headers({"host": "localhost", **shown}))
        return principal_of(HTTPConnection({**scope, "type": "http"}))


def refused(place: Place, scope: Any, **headers: str) -> tuple[ErrorKind, str]:
    with pytest.raises(LmxError) as caught:
        place.enter(scope, **headers)
    return caught.value.kind, caught.value.code


def test_a_certificate_says_who_asks() -> None:
    place = Place()
    assert place.enter(place.scope(T1 + "a")) == BOT
    assert place.enter(place.scope(T1 + "boss")) == BOSS
    assert refused(place, place.scope("spiffe://x/y"))[1] == "invalid_api_key"
    assert refused(place, place.scope(None))[1] == "invalid_api_key"
    code = refused(place, place.scope(T1 + "a", "/admin/status"))[1]
    assert code == "insufficient_scope"


def test_a_key_beside_it_says_what_may_be_done() -> None:
    place = Place()
    assert place.enter(place.scope(T1 + "a"), x_api_key="key-t1").key == "k1"
    assert refused(place, place.scope(T1 + "a"), x_api_key="key-t2") == (
        ErrorKind.FORBIDDEN,
        "tenant_mismatch",
    )
    assert refused(place, place.scope(T1 + "a"), x_api_key="wrong")[1] == "invalid_api_key"
    assert place.enter(place.scope("spiffe://x/y"), x_api_key="key-t2").key == "k2"


def test_wrong_keys_beside_a_certificate_are_counted() -> None:
    place = Place()
    codes = [refused(place, place.scope(T1 + "a"), x_api_key="wrong")[1] for _ in range(4)]
    assert codes == ["invalid_api_key"] * 3 + ["too_many_auth_failures"]
    assert place.enter(place.scope(T1 + "a")) == BOT


def test_a_connection_outlives_its_certificate_to_no_avail() -> None:
    place = Place()
    socket = place.scope(T1 + "a", "/v1/chat/stream", "websocket")
    assert place.enter(socket) == BOT
    place.clock.now = ENDS_S - 0.001
    assert place.enter(place.scope(T1 + "a")) == BOT
    place.clock.now = ENDS_S
    for scope in (place.scope(T1 + "a"), place.scope("spiffe://x/y"), place.scope(GATEWAY)):
        shown = {"x_api_key": "key-t1"}
        assert refused(place, scope, **shown) == (ErrorKind.UNAUTHENTICATED, "certificate_ended")
    with pytest.raises(LmxError, match="counts no more"):
        principal_of(HTTPConnection({**socket, "type": "http"}))


def test_a_connection_outlives_who_vouched_for_it_to_no_avail() -> None:
    place = Place()
    socket = place.scope(GATEWAY, "/v1/chat/stream", "websocket")
    assert place.enter(socket, x_opta_client_san=T1 + "a") == BOT
    place.trust.ended = True
    with pytest.raises(LmxError, match="counts no more"):
        principal_of(HTTPConnection({**socket, "type": "http"}))
    assert refused(place, place.scope(T1 + "a"))[1] == "certificate_ended"


def test_what_is_granted_ends_with_the_certificate() -> None:
    place = Place()
    alone, keyed, unknown = place.scope(T1 + "a"), place.scope(T1 + "a"), place.scope("x://y")
    place.enter(alone)
    place.enter(keyed, x_api_key="key-t1")
    place.enter(unknown, x_api_key="key-t1")
    assert (alone[ENDS], keyed[ENDS], unknown[ENDS]) == (1_000_000, 1_000_000, None)


def test_a_gateway_is_nobody_and_elsewhere() -> None:
    place = Place(remote_admin=False)
    assert place.enter(place.scope(T1 + "boss", "/admin/status")) == BOSS
    scope = place.scope(GATEWAY, "/admin/status")
    code = refused(place, scope, x_opta_client_san=T1 + "boss")[1]
    assert code == "admin_not_from_here"
    assert scope[PASSED_ON] is True
    assert refused(place, place.scope(GATEWAY))[1] == "invalid_api_key"


def test_without_keys_or_rules_nobody_is_asked() -> None:
    place = Place(required=False)
    scope = place.scope(T1 + "a")
    assert place.enter(scope) == Principal()
    assert PRINCIPAL not in scope


@given(
    peer=st.sampled_from([None, T1 + "a", "spiffe://opta/tenant/t2/a", GATEWAY]),
    told=st.sampled_from(["", T1 + "a", "spiffe://opta/tenant/t2/a"]),
    key=st.sampled_from(["", "key-t1", "key-t2", "wrong"]),
)
def test_nobody_gets_a_tenant_that_is_not_proven(peer: str | None, told: str, key: str) -> None:
    place = Place()
    try:
        found = place.enter(place.scope(peer), x_opta_client_san=told, x_api_key=key)
    except LmxError:
        return
    known = told if peer == GATEWAY else peer
    proofs = {name for name in ("t1", "t2") if key == f"key-{name}"}
    proofs |= {"t1"} if known == T1 + "a" else set()
    assert proofs == {found.tenant}
