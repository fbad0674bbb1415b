"""Each security profile refuses what it forbids, names what is missing, and allows the rest."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.config import Settings
from opta_lmx.config.profiles import (
    PROFILES,
    check,
    is_private,
    keys_required,
    missing,
    profile_of,
    rules,
)
from opta_lmx.config.sections.server import is_loopback
from opta_lmx.core.errors import ErrorKind, LmxError

LONG = "k" * 32
NAMED = {"keys": [{"name": "bot", "key": LONG}]}
GOOD: dict[str, dict[str, Any]] = {
    "loopback": {},
    "lan": {"server": {"host": "192.168.1.9"}, "access": NAMED},
    "trusted-gateway": {
        "server": {"host": "10.1.2.3"},
        "security": {"trusted_proxies": ["10.1.2.0/24"]},
        "access": NAMED,
    },
    "internet": {"security": {"trusted_proxies": ["127.0.0.1"]}, "access": NAMED},
}
HOSTS = ["127.0.0.1", "localhost", "::1", "192.168.1.2", "0.0.0.0", "::", "8.8.8.8", "box.example"]


def made(profile: str, **sections: dict[str, Any]) -> Settings:
    """Settings with a profile."""
    security = {**sections.pop("security", {}), "profile": profile}
    return Settings.model_validate({**sections, "security": security})


def good(profile: str, **changed: dict[str, Any]) -> Settings:
    """Settings that meet a profile, with some keys changed."""
    tree = {section: dict(values) for section, values in GOOD[profile].items()}
    for section, values in changed.items():
        tree[section] = {**tree.get(section, {}), **values}
    return made(profile, **tree)


def lacking(settings: Settings, stored_keys: int = 0) -> list[str]:
    """Names of the rules that are not met."""
    return [rule.name for rule in rules(settings, stored_keys) if rule.missing is not None]


def test_every_profile_can_be_chosen_and_met() -> None:
    assert set(PROFILES) == set(GOOD)
    for name in GOOD:
        assert profile_of(good(name)) is PROFILES[good(name).security.profile]
        assert missing(good(name), 0) == []
        check(good(name), 0)


def test_the_default_asks_for_nothing() -> None:
    assert Settings().security.profile == "loopback"
    assert missing(Settings(), 0) == []
    assert not keys_required(Settings())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost"])
def test_loopback_needs_no_keys(host: str) -> None:
    settings = made("loopback", server={"host": host})
    assert missing(settings, 0) == []
    assert not keys_required(settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "127.1.example"])
def test_the_default_listens_nowhere_else_with_or_without_keys(host: str) -> None:
    settings = made("loopback", server={"host": host})
    assert {"listens", "keys"} <= set(lacking(settings))
    assert keys_required(settings)
    with_keys = made("loopback", server={"host": host}, access=NAMED)
    assert "listens" in lacking(with_keys)
    assert "keys" not in lacking(with_keys)
    with pytest.raises(LmxError, match=r"set security\.profile to lan") as caught:
        check(settings, 0)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert (caught.value.code, caught.value.param) == ("keys_required", "server.host")


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"loopback"}))
def test_other_profiles_want_keys_even_on_loopback(profile: str) -> None:
    settings = good(profile, server={"host": "127.0.0.1"}, access={"keys": []})
    assert keys_required(settings)
    assert lacking(settings) == ["keys"]
    assert lacking(settings, stored_keys=1) == []


@pytest.mark.parametrize(
    ("profile", "changed", "rule"),
    [
        ("loopback", {"server": {"host": "192.168.1.2"}, "access": NAMED}, "listens"),
        ("loopback", {"security": {"trusted_proxies": ["127.0.0.1"]}}, "trusted proxies"),
        ("lan", {"server": {"host": "0.0.0.0"}}, "host check"),
        ("lan", {"server": {"host": "[::]"}}, "host check"),
        ("lan", {"server": {"api_keys": ["short"]}}, "length of keys"),
        ("lan", {"access": {"keys": [{"name": "a", "key": "k" * 15}]}}, "length of keys"),
        ("lan", {"security": {"auth_failures_per_minute": 201}}, "wrong keys"),
        ("trusted-gateway", {"security": {"trusted_proxies": []}}, "trusted proxies"),
        ("internet", {"security": {"trusted_proxies": []}}, "trusted proxies"),
        ("internet", {"server": {"host": "8.8.8.8"}}, "listens"),
        ("internet", {"server": {"host": "box.example"}}, "listens"),
        ("internet", {"server": {"api_keys": ["f" * 40]}}, "server.api_keys"),
        ("internet", {"access": {"keys": [{"name": "a", "key": "k" * 31}]}}, "length of keys"),
        ("internet", {"security": {"auth_failures_per_minute": 21}}, "wrong keys"),
    ],
)
def test_one_thing_amiss_is_the_one_thing_named(
    profile: str, changed: dict[str, Any], rule: str
) -> None:
    assert lacking(good(profile, **changed)) == [rule]


def test_everything_that_is_missing_is_told_at_once() -> None:
    keys = {"host": "0.0.0.0", "api_keys": ["short"]}
    security = {"auth_failures_per_minute": 1000}
    settings = made("internet", server=keys, security=security)
    told = missing(settings, 0)
    assert len(told) == 6
    assert all(sentence.endswith(".") for sentence in told)
    with pytest.raises(LmxError) as caught:
        check(settings, 0)
    assert all(sentence in caught.value.message for sentence in told)
    assert caught.value.code == "profile_not_met"


def test_no_sentence_holds_a_secret() -> None:
    settings = made("internet", server={"host": "0.0.0.0", "api_keys": ["canary"]})
    assert "canary" not in str(rules(settings, 0))
    assert "key-1" in str(rules(settings, 0))


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_each_sentence_names_the_setting_to_change(profile: str) -> None:
    server = {"host": "0.0.0.0", "api_keys": ["short"]}
    worst = {
        "trusted_proxies": ["127.0.0.1"] if profile == "loopback" else [],
        "auth_failures_per_minute": 1000,
    }
    for settings in (made(profile, server=server, security=worst), made(profile)):
        for rule in rules(settings, 0):
            if rule.missing is not None:
                assert rule.setting in rule.missing


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("10.0.0.1", True),
        ("192.168.0.1", True),
        ("100.64.0.7", True),
        ("fd00::1", True),
        ("[fd00::1]", True),
        ("fe80::1", True),
        ("::ffff:10.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("::ffff:0.0.0.0", False),
        ("0.0.0.0", False),
        ("::", False),
        ("8.8.8.8", False),
        ("2606:4700::1", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("box.local", False),
        ("", False),
    ],
)
def test_which_addresses_are_private(host: str, private: bool) -> None:
    assert is_private(host) is private


@given(
    profile=st.sampled_from(sorted(PROFILES)),
    at=st.tuples(st.sampled_from(HOSTS), st.sampled_from([[], ["box.example"]])),
    keys=st.sampled_from([[], ["short"], [LONG]]),
    others=st.tuples(st.booleans(), st.integers(0, 2)),
    proxies=st.sampled_from([[], ["10.0.0.0/8"]]),
)
def test_what_holds_of_every_server_that_may_start(
    profile: str,
    at: tuple[str, list[str]],
    keys: list[str],
    others: tuple[bool, int],
    proxies: list[str],
) -> None:
    (host, names), (named, stored) = at, others
    settings = made(
        profile,
        server={"host": host, "allowed_hosts": names, "api_keys": keys},
        access={"keys": [{"name": "bot", "key": "n" * 32}] if named else []},
        security={"trusted_proxies": proxies},
    )
    if missing(settings, stored):
        with pytest.raises(LmxError):
            check(settings, stored)
        return
    # Nothing is reached from beyond this machine, directly or by proxy, without a key.
    if not is_loopback(host) or proxies:
        assert keys_required(settings)
        assert keys or named or stored
    if profile == "internet":
        assert not keys
        assert is_private(host)
        assert proxies


def test_explaining_another_profile_changes_nothing() -> None:
    settings = good("lan")
    told = {rule.name: rule for rule in rules(settings, 0, "internet")}
    assert told["trusted proxies"].missing is not None
    assert settings.security.profile == "lan"
    assert [rule.name for rule in rules(settings, 0)] == list(told)
