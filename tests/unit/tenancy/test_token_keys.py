"""Which published keys may check which signatures; all others are as if they were not there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.tenancy.tokens_keys import MAX_KEYS, MAX_KID, KeySet, ProviderError, parse_keys
from tests.support.identity import Signer, b64, private_key, signer

RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


def parsed(*keys: Any) -> KeySet:
    return parse_keys({"keys": [*keys]})


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_key_checks_what_it_names(algorithm: str) -> None:
    found = parsed(signer(algorithm).jwk()).find("k1")
    assert found is not None
    assert found.algorithms == {algorithm}


@pytest.mark.parametrize(
    ("algorithm", "fitting"), [("RS256", RSA), ("ES384", {"ES384"}), ("EdDSA", {"EdDSA"})]
)
def test_a_key_that_names_none_checks_what_its_kind_can(algorithm: str, fitting: set[str]) -> None:
    found = parsed(signer(algorithm).jwk(alg=None)).find("k1")
    assert found is not None
    assert found.algorithms == fitting


EC = signer("ES256").jwk()
PLAIN_RSA = signer("RS256").jwk()
WEAK = Signer("RS256", "k1", private_key("RS", 0, 1024)).jwk()
UNUSABLE: dict[str, Any] = {
    "for encryption": {**EC, "use": "enc"},
    "for signing alone": {**EC, "key_ops": ["sign"]},
    "with no list of operations": {**EC, "key_ops": "verify"},
    "with an encryption algorithm": {**PLAIN_RSA, "alg": "RSA-OAEP"},
    "with another curve's algorithm": {**EC, "alg": "ES384"},
    "with another kind's algorithm": {**EC, "alg": "RS256"},
    "with a shared secret's algorithm": {**PLAIN_RSA, "alg": "HS256"},
    "with no algorithm": {**PLAIN_RSA, "alg": "none"},
    "with an algorithm that is no text": {**EC, "alg": ["ES256"]},
    "private": {**EC, "d": b64(b"1" * 32)},
    "private and empty": {**EC, "d": ""},
    "private in part": {**PLAIN_RSA, "p": b64(b"1" * 128)},
    "a shared secret": {"kty": "oct", "k": b64(b"1" * 32), "kid": "k1"},
    "of no kind": {**EC, "kty": None},
    "of an unhashable kind": {**EC, "kty": ["EC"]},
    "on an unhashable curve": {**EC, "crv": {"P-256": 1}},
    "on another curve": {**EC, "crv": "secp256k1"},
    "not on its curve": {**EC, "x": b64(b"1" * 32)},
    "without a coordinate": {name: value for name, value in EC.items() if name != "y"},
    "with a number for a coordinate": {**EC, "x": 7},
    "with no base64": {**EC, "x": "é*"},
    "weak": WEAK,
    "very long": {**PLAIN_RSA, "n": b64(b"\xff" * 4096)},
    "too long to be checked with": {**PLAIN_RSA, "n": b64(b"\xff" * 1100)},
    "with a huge exponent": {**PLAIN_RSA, "e": b64(b"\x01" * 9)},
    "with an even exponent": {**PLAIN_RSA, "e": b64(b"\x04")},
    "with a number for an id": {**EC, "kid": 7},
    "with an empty id": {**EC, "kid": ""},
    "with a long id": {**EC, "kid": "k" * (MAX_KID + 1)},
    "a text": "key",
    "nothing": None,
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_is_no_key_for_signatures_is_passed_over(what: str) -> None:
    other = signer("EdDSA", "other").jwk()
    found = parsed(UNUSABLE[what], other)
    assert found.find("k1") is None
    assert found.find("other") is not None
    assert len(found) == 1
    with pytest.raises(ProviderError, match="no key that can be used"):
        parsed(UNUSABLE[what])


def test_an_id_that_two_keys_have_stands_for_neither() -> None:
    twice = signer("ES256").jwk(), signer("ES256", which=1).jwk()
    found = parsed(*twice, signer("EdDSA", "other").jwk())
    assert found.find("k1") is None
    assert found.find("other") is not None
    with pytest.raises(ProviderError):
        parsed(*twice)


def test_a_token_without_an_id_means_the_only_key_there_is() -> None:
    assert parsed(signer("ES256").jwk()).find(None) is not None
    unnamed = parsed(signer("ES256", None).jwk())
    assert unnamed.find(None) is not None
    assert unnamed.find("k1") is None
    assert len(unnamed) == 1
    two = parsed(signer("ES256").jwk(), signer("EdDSA", None).jwk())
    assert two.find(None) is None
    assert two.find("k1") is not None


def test_sets_are_bounded() -> None:
    keys = [signer("ES256", f"k{place}").jwk() for place in range(MAX_KEYS)]
    assert len(parsed(*keys)) == MAX_KEYS
    with pytest.raises(ProviderError, match="more than"):
        parsed(*keys, EC)


@pytest.mark.parametrize("document", [{}, {"keys": {}}, {"keys": None}, {"keys": "k"}])
def test_what_is_no_set_is_said_to_be_none(document: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="no set"):
        parse_keys(document)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
_fields = st.sampled_from(["kty", "crv", "alg", "use", "key_ops", "kid", "n", "e", "x", "y", "d"])


@given(st.sampled_from([EC, PLAIN_RSA]), st.dictionaries(_fields, _json, min_size=1))
def test_no_key_crashes_anything(base: dict[str, Any], changed: dict[str, Any]) -> None:
    try:
        found = parsed({**base, **changed})
    except ProviderError:
        return
    assert found.algorithms <= RSA | {"ES256"}
