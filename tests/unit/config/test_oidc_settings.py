"""The section `oidc`: whole or refused, shown without secrets, and a way to have credentials."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from opta_lmx.config import Settings, explain, load_settings
from opta_lmx.config.profiles import PROFILES, check, keys_required, missing, rules
from opta_lmx.core.errors import LmxError

ISSUER = {"issuer": "https://id.example/realms/bots", "audience": "opta-lmx"}
RULE = {"claim": "groups", "value": "ops"}


def made(**oidc: Any) -> Settings:
    return Settings.model_validate({"oidc": oidc})


def test_without_an_issuer_no_token_is_taken() -> None:
    assert Settings().oidc.issuer is None
    assert not keys_required(Settings())


@pytest.mark.parametrize(
    ("oidc", "said"),
    [
        ({"issuer": "https://id.example"}, "needs oidc.audience"),
        ({"audience": "x"}, "Without oidc.issuer"),
        ({"jwks_url": "https://id.example/keys"}, "Without oidc.issuer"),
        ({"ca": "ca.pem"}, "Without oidc.issuer"),
        ({"rules": [RULE]}, "Without oidc.issuer"),
        ({**ISSUER, "issuer": "http://id.example"}, "https://"),
        ({**ISSUER, "issuer": "http://localhost.evil.example"}, "https://"),
        ({**ISSUER, "issuer": "ftp://localhost"}, "https://"),
        ({**ISSUER, "issuer": "https://"}, "https://"),
        ({**ISSUER, "issuer": "id.example"}, "https://"),
        ({**ISSUER, "issuer": "https://user:word@id.example"}, "https://"),
        ({**ISSUER, "issuer": "https://id.example?x=1"}, "https://"),
        ({**ISSUER, "issuer": "https://id.example#x"}, "https://"),
        ({**ISSUER, "issuer": "https://id.example:99999"}, "https://"),
        ({**ISSUER, "issuer": "https://[::1"}, "https://"),
        ({**ISSUER, "issuer": "https://idé.example"}, "https://"),
        ({**ISSUER, "jwks_url": "http://10.0.0.1/keys"}, "https://"),
        ({**ISSUER, "audience": ""}, "at least 1"),
        ({**ISSUER, "algorithms": []}, "at least 1"),
        ({**ISSUER, "algorithms": ["HS256"]}, "RS256"),
        ({**ISSUER, "algorithms": ["none"]}, "RS256"),
        ({**ISSUER, "max_lifetime_s": 0}, "60"),
        ({**ISSUER, "rules": [{"claim": "groups"}]}, "value"),
        ({**ISSUER, "rules": [{**RULE, "scopes": []}]}, "at least 1"),
        ({**ISSUER, "rules": [{**RULE, "scopes": ["root"]}]}, "admin"),
        ({**ISSUER, "rules": [{**RULE, "tenant": "a b"}]}, "pattern"),
        ({**ISSUER, "rules": [{**RULE, "key": "x"}]}, "Extra"),
    ],
    ids=repr,
)
def test_what_is_refused(oidc: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made(**oidc)


@pytest.mark.parametrize(
    "issuer",
    [
        "https://id.example",
        "https://id.example/",
        "https://10.0.0.1:8443/realms/x",
        "http://127.0.0.1:8080",
        "http://localhost:8080/realms/x",
        "http://[::1]:8080",
    ],
)
def test_issuers_that_may_be_named(issuer: str) -> None:
    assert made(**{**ISSUER, "issuer": issuer}).oidc.issuer == issuer


def test_a_file_and_the_environment_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[oidc]\nissuer = "https://id.example"\naudience = "a"\nca = "ca.pem"\n'
        '[[oidc.rules]]\nclaim = "groups"\nvalue = "ops"\nscopes = ["admin"]\n'
    )
    found = load_settings(home=tmp_path, file=file, env={}, flags={})
    assert found.settings.oidc.authorities(tmp_path) == tmp_path / "ca.pem"
    assert found.settings.oidc.rules[0].scopes == ["admin"]
    rows = {row.key: row for row in explain(found)}
    assert rows["oidc.issuer"].value == "https://id.example"
    assert all(row.description for key, row in rows.items() if key.startswith("oidc."))
    env = {"LMX_OIDC__ISSUER": "https://id.example", "LMX_OIDC__AUDIENCE": "a"}
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert load_settings(home=tmp_path, file=empty, env=env, flags={}).settings.oidc.audience == "a"
    with pytest.raises(LmxError, match=r"oidc\.audience"):
        load_settings(home=tmp_path, file=empty, env=dict([*env.items()][:1]), flags={})


@pytest.mark.parametrize("name", PROFILES)
def test_tokens_are_a_way_to_come_in_under_every_profile(name: str) -> None:
    tree: dict[str, Any] = {"security": {"profile": name}, "oidc": ISSUER}
    if PROFILES[name].proxies == "required":
        tree["security"]["trusted_proxies"] = ["127.0.0.1"]
    settings = Settings.model_validate(tree)
    assert keys_required(settings)
    assert missing(settings, 0) == []
    check(settings, 0)
    (rule,) = [one for one in rules(settings, 0) if one.name == "keys"]
    assert (rule.asks, rule.found) == ("a key or a token with each request", "no keys, oidc.issuer")
    without = Settings.model_validate({**tree, "oidc": {}})
    assert bool(missing(without, 0)) == PROFILES[name].keys


def test_certificates_and_tokens_beside_keys_are_told_together() -> None:
    tls = {
        "certificate": "/x/server.pem",
        "key": "/x/server.key",
        "client_ca": "/x/ca.pem",
        "client_certificates": "optional",
        "mapping": [{"dns": "bot.example", "tenant": "t1", "name": "bot"}],
    }
    settings = Settings.model_validate({"oidc": ISSUER, "tls": tls})
    (rule,) = [one for one in rules(settings, 2) if one.name == "keys"]
    assert rule.asks == "a key or a known certificate or a token with each request"
    assert rule.found == "2 keys, tls.mapping, oidc.issuer"


@pytest.mark.parametrize("name", ["bot", "oidc:auth0|5f", "oidc:system:serviceaccount:a:b"])
def test_quotas_may_be_for_owners_of_tokens(name: str) -> None:
    quotas = {"keys": [{"name": name, "requests_per_minute": 1}]}
    assert Settings.model_validate({"quotas": quotas}).quotas.keys[0].name == name


@pytest.mark.parametrize(
    "name", ["", "oidc:", "oidc:a b", "oidc:a\n", "bot:a", "oidc:" + "x" * 124]
)
def test_names_that_nobody_has(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"quotas": {"keys": [{"name": name}]}})
