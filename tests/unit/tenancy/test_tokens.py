"""Whose a token is, by keys of a real provider: rotated, withdrawn, out of reach; and attacks."""

import asyncio
import functools
import json
import string
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.tenancy.tokens import FRESH_S, MAX_TOKEN, PAUSE_S, STALE_S, Tokens
from opta_lmx.tenancy.tokens_claims import Expected
from opta_lmx.tenancy.tokens_source import Source, fetch_keys
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock
from tests.support.identity import (
    ALGORITHMS,
    AUDIENCE,
    KEYS,
    Provider,
    b64,
    encoded,
    identity_provider,
    missing,
    signer,
)
from tests.support.waiting import until


class Told:
    """Keeps what operators are told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []
        self.counts: list[str] = []

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        self.counts.append(f"{name} {labels.get('outcome')}")

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def log(self, level: str, event: str, **fields: object) -> None:
        self.lines.append((level, event, fields))

    def warnings(self) -> list[object]:
        return [fields["reason"] for level, _, fields in self.lines if level == "warning"]


class Believer:
    """Tokens of a provider, and a clock for both."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.clock = HandClock(time.time())
        self.told = Told()
        self.tokens = Tokens(
            Expected(provider.issuer, AUDIENCE),
            ALGORITHMS,
            functools.partial(fetch_keys, Source(provider.issuer)),
            self.clock,
            self.told,
        )

    async def look(self) -> None:
        """What the server does every second, until it is done."""
        self.tokens.follow()
        task = self.tokens._fetching
        if task is not None:
            await asyncio.wait({task})

    def knows(self, token: str) -> bool:
        return self.tokens.owner(token) is not None


@asynccontextmanager
async def believing(*, looked: bool = True) -> AsyncIterator[Believer]:
    with identity_provider() as provider:
        believer = Believer(provider)
        if looked:
            await believer.look()
        try:
            yield believer
        finally:
            await believer.tokens.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@in_loop
async def test_tokens_of_each_kind_of_key_are_known(algorithm: str) -> None:
    async with believing(looked=False) as one:
        one.provider.publish(signer(algorithm, "a"), signer("ES256", "b"))
        await one.look()
        token = one.provider.token(sub="bot-7")
        owner = one.tokens.owner(token)
        assert owner is not None
        assert (owner.key, owner.tenant) == ("oidc:bot-7", "default")
        ends_ms = one.tokens.ends_ms(token)
        assert ends_ms is not None
        assert 590_000 < ends_ms - one.clock.now_ms() < 601_000
        assert one.knows(token)


@in_loop
async def test_a_text_that_is_no_token_is_not_looked_at() -> None:
    async with believing(looked=False) as one:
        for text in ("", "lmx_abc", "eyJ", "eyJ.a.b", "a.b.c", "eyJh.e30.é", "eyJh..b", "\ud800"):
            assert not one.knows(text)
            assert one.tokens.ends_ms(text) is None
        assert one.tokens._fetching is None


@pytest.mark.parametrize(("named", "used"), [("PS256", "RS256"), ("RS256", "PS256")])
@in_loop
async def test_a_key_that_names_an_algorithm_is_for_no_other(named: str, used: str) -> None:
    async with believing(looked=False) as one:
        one.provider.publish(signer(named))
        await one.look()
        assert signer(used).private is signer(named).private
        assert not one.knows(signer(used).token(one.provider.claims()))
        assert one.knows(one.provider.token())


@in_loop
async def test_algorithms_that_are_not_taken_are_refused_before_all_else() -> None:
    async with believing(looked=False) as one:
        one.provider.publish_raw([signer("RS256").jwk(alg=None)])
        assert not one.knows(signer("RS512").token(one.provider.claims()))
        assert not one.knows(unsigned(one.provider, "HS256") + "c2ln")
        await one.look()
        assert not one.knows(signer("RS512").token(one.provider.claims()))
        assert one.knows(signer("RS256").token(one.provider.claims()))


# --- keys come, change, go


@in_loop
async def test_before_the_first_keys_nothing_can_be_said_but_when_to_come_back() -> None:
    async with believing(looked=False) as one:
        with pytest.raises(LmxError) as caught:
            one.knows(one.provider.token())
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert caught.value.code == "identity_provider_unavailable"
        assert caught.value.retry_after == 1
        await until(lambda: one.tokens._keys)
        assert one.knows(one.provider.token())


@in_loop
async def test_a_provider_out_of_reach_is_asked_again_after_a_pause() -> None:
    async with believing(looked=False) as one:
        fine, one.provider.pages[KEYS] = one.provider.pages[KEYS], missing
        for _ in range(3):
            await one.look()
        assert one.provider.fetches == 1
        with pytest.raises(LmxError) as caught:
            one.knows(one.provider.token())
        assert caught.value.retry_after == PAUSE_S
        one.clock.now += PAUSE_S
        await one.look()
        assert one.told.counts == ["identity_provider_fetches_total failed"] * 2
        assert len(one.told.warnings()) == 1
        one.provider.pages[KEYS] = fine
        one.clock.now += PAUSE_S
        await one.look()
        assert one.knows(one.provider.token())


@in_loop
async def test_a_key_that_is_not_known_yet_is_fetched_once_in_a_pause() -> None:
    async with believing() as one:
        assert one.knows(one.provider.token())
        one.provider.publish(signer("EdDSA", "new"), one.provider.signer)
        one.clock.now += PAUSE_S
        token = one.provider.token()
        assert not one.knows(token)
        await one.look()
        assert one.knows(token)
        assert one.provider.fetches == 2
        for place in range(20):
            assert not one.knows(signer("ES256", f"made-up-{place}").token(one.provider.claims()))
            await one.look()
        assert one.provider.fetches == 2
        one.clock.now += PAUSE_S
        await one.look()
        await one.look()
        assert one.provider.fetches == 3


@in_loop
async def test_a_withdrawn_key_opens_nothing_after_the_next_look() -> None:
    async with believing() as one:
        token = one.provider.token()
        assert one.knows(token)
        one.provider.publish(signer("EdDSA", "new"))
        one.clock.now += FRESH_S - 1
        await one.look()
        assert one.knows(token)
        one.clock.now += 1
        await one.look()
        assert not one.knows(token)
        assert one.tokens.ends_ms(token) is None


@in_loop
async def test_another_key_under_the_same_id_does_not_open_for_the_old_one() -> None:
    async with believing() as one:
        token = one.provider.token()
        assert one.knows(token)
        one.provider.publish(signer("ES256", "k1", which=1))
        one.clock.now += FRESH_S
        await one.look()
        assert not one.knows(token)
        assert one.knows(one.provider.token())


@in_loop
async def test_while_the_provider_is_away_keys_go_on_but_not_for_ever() -> None:
    async with believing() as one:
        token = one.provider.token(exp=int(time.time()) + 80_000)
        fine, one.provider.pages[KEYS] = one.provider.pages[KEYS], missing
        while one.clock.now < one.tokens._read_at + STALE_S:
            assert one.knows(token)
            one.clock.now += FRESH_S
            await one.look()
        one.clock.now += 1
        with pytest.raises(LmxError) as caught:
            one.knows(token)
        assert caught.value.code == "identity_provider_unavailable"
        one.provider.pages[KEYS] = fine
        one.clock.now += PAUSE_S
        await one.look()
        assert one.knows(token)


@in_loop
async def test_a_token_ends_though_it_is_known() -> None:
    async with believing() as one:
        token = one.provider.token(exp=int(one.clock.now) + 10)
        assert one.knows(token)
        one.clock.now += 11
        assert not one.knows(token)


@in_loop
async def test_good_tokens_are_remembered_within_bounds() -> None:
    async with believing() as one:
        tokens = [one.provider.token(sub=f"b{place}") for place in range(1100)]
        assert all(map(one.knows, tokens))
        assert len(one.tokens._known) == 1024
        assert one.knows(tokens[0])


@in_loop
async def test_a_fetch_under_way_ends_with_the_server() -> None:
    with identity_provider() as provider:
        provider.pages[KEYS] = provider.dribble
        one = Believer(provider)
        one.tokens.follow()
        await until(lambda: provider.fetches)
        await one.tokens.close()
        assert one.tokens._fetching is not None
        assert one.tokens._fetching.cancelled()


# --- attacks


def unsigned(one: Provider, algorithm: str) -> str:
    return f"{b64(encoded({'alg': algorithm, 'kid': 'k1'}))}.{b64(encoded(one.claims()))}."


def hmac_with_public_key(one: Provider) -> str:
    """Signed with the published key as if that were a shared secret."""
    import hashlib
    import hmac

    pem = one.signer.private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    head = b64(encoded({"alg": "HS256", "typ": "JWT", "kid": "k1"}))
    signed = f"{head}.{b64(encoded(one.claims()))}"
    return f"{signed}.{b64(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def own_key(one: Provider, **header: Any) -> str:
    """Signed with a key of the attacker's, which the token brings along."""
    mine = signer("ES256", "k1", which=9)
    return mine.token(one.claims(), **header)


def twice(one: Provider, name: str) -> str:
    claims = json.dumps(one.claims())[:-1] + f', "{name}": "x"}}'
    return one.signer.token(claims.encode())


def swapped(one: Provider) -> str:
    """The signature of one token under the claims of another."""
    head, _, signature = one.token().split(".")
    return f"{head}.{b64(encoded(one.claims(sub='admin')))}.{signature}"


MINE = signer("ES256", "k1", which=9).jwk()
ATTACKS: dict[str, Callable[[Provider], str]] = {
    "no algorithm": lambda one: unsigned(one, "none"),
    "no algorithm, and a signature": lambda one: unsigned(one, "none") + "c2ln",
    "no algorithm in other letters": lambda one: unsigned(one, "NonE") + "c2ln",
    "no signature": lambda one: one.token().rpartition(".")[0] + ".",
    "a shared secret": hmac_with_public_key,
    "an unknown key": lambda one: signer("ES256", "k2").token(one.claims()),
    "no key named where there are two": lambda one: one.signer.token(one.claims(), kid=None),
    "an empty key id": lambda one: one.signer.token(one.claims(), kid=""),
    "a path for a key id": lambda one: own_key(one, kid="../../dev/null"),
    "another key": own_key,
    "a key brought along": lambda one: own_key(one, jwk=MINE),
    "a key brought along, not named": lambda one: own_key(one, jwk=MINE, kid=None),
    "an address of keys": lambda one: own_key(one, jku=one.issuer + "/evil"),
    "an address of a certificate": lambda one: own_key(one, x5u=one.issuer + "/evil"),
    "a certificate": lambda one: own_key(one, x5c=["MIIB"]),
    "another algorithm's key": lambda one: signer("RS256", "k1").token(one.claims()),
    "another algorithm named": lambda one: one.signer.token(one.claims(), alg="ES384"),
    "a key for encryption": lambda one: signer("ES256", "enc").token(one.claims()),
    "something critical": lambda one: one.signer.token(one.claims(), crit=["exp"]),
    "claims not encoded": lambda one: one.signer.token(one.claims(), b64=False, crit=["b64"]),
    "packed claims": lambda one: one.signer.token(one.claims(), crit=["zip"], zip="DEF"),
    "another issuer": lambda one: one.token(iss="https://id.example"),
    "another audience": lambda one: one.token(aud="other"),
    "no audience": lambda one: one.token(aud=None),
    "expired": lambda one: one.token(exp=int(time.time()) - 1),
    "no end": lambda one: one.token(exp=None),
    "not begun": lambda one: one.token(nbf=int(time.time()) + 120),
    "made in the future": lambda one: one.token(iat=int(time.time()) + 120),
    "good for years": lambda one: one.token(exp=int(time.time()) + 10**8),
    "no subject": lambda one: one.token(sub=None),
    "a subject of two lines": lambda one: one.token(sub="a\nb"),
    "two subjects": lambda one: twice(one, "sub"),
    "two issuers": lambda one: twice(one, "iss"),
    "two algorithms": lambda one: one.signer.sign(
        b'{"alg":"ES256","kid":"k1","alg":"none"}', one.claims()
    ),
    "a list for a header": lambda one: one.signer.sign(b'["alg"]', one.claims()),
    "blanks in the header": lambda one: one.signer.sign(
        b'{ "alg":"ES256","kid":"k1"}', one.claims()
    ),
    "no claims": lambda one: one.signer.token(b"{}"),
    "claims that are a list": lambda one: one.signer.token(b"[]"),
    "claims that are no text": lambda one: one.signer.token(b"\xff\xfe"),
    "deep claims": lambda one: one.signer.token(b'{"a":' + b"[" * 5000),
    "too large": lambda one: one.token(padding="x" * MAX_TOKEN),
    "another token's signature": swapped,
    "a signature in another form": lambda one: one.token() + "==",
    "three dots": lambda one: one.token() + ".",
    "a line behind it": lambda one: one.token() + "\n",
    "encrypted": lambda one: f"{b64(encoded({'alg': 'dir', 'enc': 'A256GCM'}))}.a.b.c.d",
    "a log-out": lambda one: one.signer.token(one.claims(), typ="logout+jwt"),
    "bound to its holder": lambda one: one.token(cnf={"jkt": "x"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
@in_loop
async def test_attacks(attack: str) -> None:
    async with believing(looked=False) as one:
        keys = [one.provider.signer.jwk(), signer("ES256", "enc").jwk(use="enc")]
        one.provider.publish_raw([*keys, signer("EdDSA", "other").jwk()])
        await one.look()
        token = ATTACKS[attack](one.provider)
        assert one.tokens.owner(token) is None
        assert one.tokens.ends_ms(token) is None
        assert one.knows(one.provider.token())
        assert "/evil" not in one.provider.asked
        reasons = [str(fields) for _, _, fields in one.told.lines]
        assert not any(part in reason for reason in reasons for part in token.split(".") if part)


@in_loop
async def test_keys_named_in_a_header_change_nothing_in_a_good_token() -> None:
    async with believing() as one:
        evil = f"{one.provider.issuer}/evil"
        more = {"jwk": MINE, "jku": evil, "x5u": evil, "x5c": ["MIIB"]}
        assert one.knows(one.provider.signer.token(one.provider.claims(), **more))
        assert "/evil" not in one.provider.asked


_CHARS = st.sampled_from(string.ascii_letters + string.digits + "-_.=+/ é\0")


@st.composite
def mutated(draw: st.DrawFn, token: str) -> str:
    """The token with some characters put in place of others, added or left out."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(token)))
        until_ = min(len(token), at + draw(st.integers(0, 3)))
        token = token[:at] + draw(st.text(_CHARS, max_size=3)) + token[until_:]
    return token


def test_no_changed_token_opens_and_none_crashes() -> None:
    @in_loop
    async def run() -> None:
        async with believing(looked=False) as one:
            one.provider.publish(*(signer(each, each) for each in ALGORITHMS))
            await one.look()
            claims = one.provider.claims()
            good = [signer(each, each).token(claims) for each in ALGORITHMS]
            assert all(map(one.knows, good))

            @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
            @given(st.sampled_from(good).flatmap(mutated))
            def changed(token: str) -> None:
                assert one.knows(token) == (token in good)

            changed()

    run()


_headers = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]),
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.lists(st.text(max_size=3)),
)


def test_no_signed_header_crashes_anything() -> None:
    @in_loop
    async def run() -> None:
        async with believing() as one:
            claims = one.provider.claims()

            @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
            @given(_headers)
            def asked(header: dict[str, Any]) -> None:
                fields = {"alg": "ES256", "kid": "k1", **header}
                known = one.knows(one.provider.signer.sign(encoded(fields), claims))
                plain = fields["alg"] == "ES256" and fields["kid"] in ("k1", None)
                assert plain or not known

            asked()

    run()
