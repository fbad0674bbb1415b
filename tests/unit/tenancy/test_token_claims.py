"""What tokens must say, and whom rules make of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.principal import Lane, Principal, Scope
from opta_lmx.tenancy.grants import LABEL
from opta_lmx.tenancy.tokens_claims import (
    LEEWAY_S,
    BadTokenError,
    Expected,
    Owned,
    Rule,
    check_claims,
    check_header,
    read_object,
)

NOW = 1_900_000_000.0
ISSUER = "https://id.example/realm"
EXPECTED = Expected(ISSUER, "lmx", longest_s=86_400)
GOOD: dict[str, Any] = {"iss": ISSUER, "aud": "lmx", "sub": "b", "iat": NOW, "exp": NOW + 60}


class _Absent:
    """A claim left out; its name is the same in every process, as names of tests must be."""

    def __repr__(self) -> str:
        return "left out"


GONE = _Absent()


def checked(rules: tuple[Rule, ...] = (), now_s: float = NOW, **changed: Any) -> Owned:
    claims = {name: value for name, value in {**GOOD, **changed}.items() if value is not GONE}
    return check_claims(claims, Expected(ISSUER, "lmx", rules), now_s)


def refused(**changed: Any) -> bool:
    with pytest.raises(BadTokenError):
        checked(**changed)
    return True


def test_a_good_token_is_for_inference_and_no_more() -> None:
    found = checked().owner
    assert found == Principal(key="oidc:b", scopes=frozenset({Scope.INFERENCE}))


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://id.example/realm/"},
        {"iss": "https://ID.example/realm"},
        {"iss": [ISSUER]},
        {"iss": GONE},
        {"aud": "other"},
        {"aud": "lmx2"},
        {"aud": []},
        {"aud": ["other", ["lmx"]]},
        {"aud": {"lmx": 1}},
        {"aud": None},
        {"aud": GONE},
        {"sub": GONE},
        {"sub": ""},
        {"sub": 7},
        {"sub": "b" * 124},
        {"sub": "a b"},
        {"sub": "b\n"},
        {"sub": "b\u202e"},
        {"exp": GONE},
        {"exp": None},
        {"exp": True},
        {"exp": str(NOW + 60)},
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": -1},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": 10**400},
        {"exp": NOW + 86_401},
        {"exp": NOW + 86_401, "iat": GONE},
        {"iat": "now"},
        {"iat": None},
        {"iat": NOW + LEEWAY_S + 1},
        {"iat": NOW - 86_400},
        {"nbf": NOW + LEEWAY_S + 1},
        {"nbf": "now"},
        {"cnf": {"jkt": "x"}},
    ],
    ids=repr,
)
def test_tokens_that_are_not_for_here_or_now(changed: dict[str, Any]) -> None:
    assert refused(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": ["other", "lmx"]},
        {"iat": GONE},
        {"iat": NOW + LEEWAY_S},
        {"nbf": NOW + LEEWAY_S},
        {"nbf": 0},
        {"exp": NOW + 0.5},
        {"exp": int(NOW) + 86_400, "iat": int(NOW)},
        {"sub": "b" * 123},
        {"sub": "system:serviceaccount:bots:one"},
        {"nonce": "x", "azp": "y", "unknown": {"deep": []}},
    ],
    ids=repr,
)
def test_tokens_that_are(changed: dict[str, Any]) -> None:
    assert checked(**changed).owner.key.startswith("oidc:")


def test_an_end_is_exact_and_a_beginning_has_a_leeway() -> None:
    owned = checked(nbf=NOW + 10)
    assert not owned.opens(NOW + 10 - LEEWAY_S - 0.1)
    assert owned.opens(NOW + 10 - LEEWAY_S)
    assert owned.opens(NOW + 59.9)
    assert not owned.opens(NOW + 60)


def test_no_key_can_have_the_name_of_a_tokens_owner() -> None:
    assert ":" in checked().owner.key
    assert ":" not in LABEL


OPS = Rule("groups", "ops-*", "t1", frozenset({Scope.ADMIN}), None, Lane.AGENT)
BOTS = Rule("scope", "bots", "t2", models=("small-*",), lane=Lane.BACKGROUND)
ROLE = Rule("realm_access.roles", "bot", "t3")
RULES = (OPS, BOTS, ROLE)


@pytest.mark.parametrize(
    ("claims", "tenant"),
    [
        ({"groups": ["x", "ops-1"]}, "t1"),
        ({"groups": "ops-1"}, "t1"),
        ({"groups": "x ops-1"}, None),
        ({"groups": ["OPS-1", 7, None, ["ops-1"]]}, None),
        ({"groups": {"ops-1": True}}, None),
        ({"scope": "openid bots mail"}, "t2"),
        ({"scope": "robots"}, None),
        ({"scope": ["bots"]}, "t2"),
        ({"scope": "bots", "groups": ["ops-1"]}, "t1"),
        ({"realm_access": {"roles": ["bot"]}}, "t3"),
        ({"realm_access.roles": ["bot"]}, "t3"),
        ({"realm_access": {"roles": ["no"]}}, None),
        ({"realm_access": ["roles"]}, None),
        ({"realm_access": "roles"}, None),
        ({"groups": ["x"] * 256 + ["ops-1"]}, None),
        ({}, None),
    ],
    ids=repr,
)
def test_the_first_rule_that_fits_counts(claims: dict[str, Any], tenant: str | None) -> None:
    if tenant is None:
        assert refused(rules=RULES, **claims)
    else:
        assert checked(RULES, **claims).owner.tenant == tenant


def test_a_rule_says_all_that_may_be_done() -> None:
    owner = checked(RULES, scope="bots").owner
    assert owner == Principal(
        tenant="t2",
        key="oidc:b",
        lane=Lane.BACKGROUND,
        scopes=frozenset({Scope.INFERENCE}),
        models=("small-*",),
    )


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"alg": None},
        {"alg": ["ES256"]},
        {"alg": "ES256", "crit": []},
        {"alg": "ES256", "b64": True},
        {"alg": "ES256", "kid": 7},
        {"alg": "ES256", "typ": "logout+jwt"},
        {"alg": "ES256", "typ": "dpop+jwt"},
        {"alg": "ES256", "typ": None},
    ],
    ids=repr,
)
def test_headers_that_ask_for_more_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises(BadTokenError):
        check_header(header)


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+JWT"])
def test_usual_kinds_are_taken(kind: str) -> None:
    header = {"alg": "ES256", "kid": "k", "typ": kind, "jku": "https://evil.example", "jwk": {}}
    assert check_header(header) == ("ES256", "k")
    assert check_header({"alg": "ES256"}) == ("ES256", None)


@pytest.mark.parametrize(
    "data",
    [
        b'{"sub":"a","sub":"b"}',
        b'{"a":{"b":1,"b":2}}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"exp":1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"null",
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_parts_that_two_readers_might_read_differently_are_refused(data: bytes) -> None:
    with pytest.raises(BadTokenError):
        read_object(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "nbf", "groups", "scope", "cnf"]), _json))
def test_no_claim_crashes_anything(claims: dict[str, Any]) -> None:
    try:
        owned = check_claims({**GOOD, **claims}, Expected(ISSUER, "lmx", RULES), NOW)
    except BadTokenError:
        return
    assert owned.opens(NOW)
    assert owned.owner.tenant in ("t1", "t2")
