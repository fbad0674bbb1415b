"""Whose a certificate is: exact names, beginnings, and the order of rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.principal import Principal
from opta_lmx.security.tls.mapping import (
    PREFIX,
    Kind,
    Rule,
    identify,
    is_gateway,
    remainder,
    told_names,
)
from opta_lmx.security.tls.session import Names

ONE, TWO = Principal(tenant="t1", key="one"), Principal(tenant="t2", key="two")
T1 = "spiffe://opta/tenant/t1/"


@pytest.mark.parametrize(
    ("kind", "pattern", "name", "rest"),
    [
        ("uri", T1 + "a", T1 + "a", ""),
        ("uri", T1 + "a", T1 + "A", None),
        ("uri", T1 + "a", T1 + "ab", None),
        ("uri", T1 + "*", T1 + "a", "a"),
        ("uri", T1 + "*", T1, None),
        ("uri", T1 + "*", "spiffe://opta/tenant/t10/a", None),
        ("uri", T1 + "*", "x" + T1 + "a", None),
        ("dns", "bot.example", "BOT.example", ""),
        ("dns", "bot.example", "bot.example.org", None),
        ("dns", "bot-*", "Bot-1.example", "1.example"),
        ("subject", "CN=a,O=t1", "CN=a,O=t1", ""),
        ("subject", "CN=a,O=t1", "cn=a,O=t1", None),
        ("subject", "CN=a,*", "CN=a,O=t1", "O=t1"),
    ],
)
def test_what_fits(kind: Kind, pattern: str, name: str, rest: str | None) -> None:
    assert remainder(pattern, name, kind) == rest


def test_the_first_rule_that_fits_counts() -> None:
    rules = [Rule("uri", T1 + "a", TWO), Rule("uri", T1 + "*", ONE)]
    assert identify(rules, Names(uris=(T1 + "a",))) == TWO
    assert identify(rules, Names(uris=(T1 + "b",))) == ONE
    assert identify(rules, Names(uris=("spiffe://x/y", T1 + "b"))) == ONE
    assert identify(rules, Names(uris=("spiffe://x/y",), dns=(T1 + "a",), subject=T1)) is None
    assert identify([], Names(uris=(T1,))) is None
    assert identify(rules, Names()) is None


def test_a_subject_that_is_empty_fits_nothing() -> None:
    assert identify([Rule("subject", "", ONE)], Names(uris=("spiffe://x",))) is None


@pytest.mark.parametrize("rest", ["a", "bot-1", "x.y_z", "b" * 59])
def test_what_a_star_stands_for_names_the_caller(rest: str) -> None:
    rules = [Rule("uri", T1 + "*", ONE, named=False)]
    found = identify(rules, Names(uris=(T1 + rest,)))
    assert found is not None
    assert (found.key, found.tenant) == (PREFIX + rest, "t1")


@pytest.mark.parametrize("rest", ["", "a/b", "..", "../t2/a", "a b", "b" * 60, "é", "a\n", "-a"])
def test_what_is_no_name_names_nobody(rest: str) -> None:
    rules = [Rule("uri", T1 + "*", ONE, named=False)]
    assert identify(rules, Names(uris=(T1 + rest,))) is None


@given(tenant=st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), rest=st.text(max_size=12))
def test_no_tenant_is_taken_for_another(tenant: str, rest: str) -> None:
    rules = [Rule("uri", T1 + "*", ONE, named=False), Rule("uri", T1 + "*", ONE)]
    found = identify(rules, Names(uris=(f"spiffe://opta/tenant/{tenant}/{rest}",)))
    assert (found is not None) == (tenant == "t1" and rest != "")


@given(
    pattern=st.text(alphabet="ab/*", min_size=1, max_size=6),
    name=st.text(alphabet="ab/", max_size=6),
)
def test_a_star_stands_for_something_and_only_at_the_end(pattern: str, name: str) -> None:
    found = remainder(pattern, name, "uri")
    if not pattern.endswith("*"):
        assert found == ("" if pattern == name else None)
    elif found is not None:
        assert found
        assert pattern[:-1] + found == name


def test_gateways_are_known_by_what_certificates_are_checked_for() -> None:
    patterns = ["spiffe://opta/gateway/*", "gw.example"]
    assert is_gateway(patterns, Names(uris=("spiffe://opta/gateway/edge",)))
    assert is_gateway(patterns, Names(dns=("other", "GW.example")))
    assert not is_gateway(patterns, Names(subject="gw.example"))
    assert not is_gateway(patterns, Names(uris=("gw.example2",), dns=("x.gw.example",)))
    assert not is_gateway([], Names(uris=("spiffe://opta/gateway/edge",)))


def test_what_a_gateway_tells_is_a_uri_or_a_name() -> None:
    assert told_names(T1 + "a", "CN=a") == Names(uris=(T1 + "a",), subject="CN=a")
    assert told_names("bot.example", "") == Names(dns=("bot.example",))
    assert told_names("", "") == Names()
