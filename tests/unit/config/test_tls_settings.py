"""The section `tls`: whole or refused, and what it changes for the security profiles."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from opta_lmx.config import Settings, load_settings
from opta_lmx.config.profiles import keys_required, missing, rules
from opta_lmx.core.errors import LmxError

FILES = {"certificate": "/x/server.pem", "key": "/x/server.key"}
ASKING = {**FILES, "client_ca": "/x/ca.pem", "client_certificates": "required"}
BOTS = {"uri": "spiffe://opta/tenant/t1/*", "tenant": "t1"}
NAMED = {"keys": [{"name": "bot", "key": "k" * 32}]}


def made(**tls: Any) -> Settings:
    return Settings.model_validate({"tls": tls})


def test_without_any_nothing_is_encrypted() -> None:
    assert not Settings().tls.enabled
    assert made(**FILES).tls.enabled


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ({"certificate": "/x"}, "go together"),
        ({"key": "/x"}, "go together"),
        ({**FILES, "client_certificates": "optional"}, "needs tls.certificate"),
        ({"client_ca": "/x", "client_certificates": "required"}, "needs tls.certificate"),
        ({**FILES, "client_ca": "/x"}, "need tls.client_certificates"),
        ({**FILES, "mapping": [BOTS]}, "need tls.client_certificates"),
        ({**FILES, "gateway": ["gw.example"]}, "need tls.client_certificates"),
        ({**FILES, "min_version": "1.1"}, "1.2"),
        ({**FILES, "handshake_timeout_s": 0}, "0.1"),
        ({**ASKING, "gateway_san_header": "a b"}, "name of a header"),
        ({**ASKING, "gateway_san_header": ""}, "name of a header"),
        ({**ASKING, "gateway": ["*"]}, "may only stand at the end"),
        ({**ASKING, "gateway": [""]}, "at least 1"),
    ],
)
def test_halves_are_refused(tls: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made(**tls)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "exactly one"),
        ({"uri": "spiffe://x/a", "dns": "a", "name": "a"}, "exactly one"),
        ({"uri": "spiffe://x/a"}, "Needs a name"),
        ({"dns": "bot-*"}, "Needs a name"),
        ({"subject": "CN=a"}, "Needs a name"),
        ({"uri": "spiffe://x/t1*"}, "may only stand at the end"),
        ({"uri": "spiffe://*/a", "name": "a"}, "may only stand at the end"),
        ({"uri": "*"}, "may only stand at the end"),
        ({"dns": "*.example", "name": "a"}, "may only stand at the end"),
        ({**BOTS, "tenant": "a b"}, "pattern"),
        ({**BOTS, "scopes": []}, "at least 1"),
        ({**BOTS, "models": []}, "at least 1"),
        ({**BOTS, "weight": 2.0}, "Extra inputs"),
    ],
)
def test_rules_that_say_too_little_or_too_much_are_refused(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made(**ASKING, mapping=[rule])


def test_rules_have_one_pattern() -> None:
    given = [BOTS, {"dns": "a.b", "name": "a"}, {"subject": "CN=a", "name": "a"}]
    mapping = made(**ASKING, mapping=given).tls.mapping
    assert [one.pattern for one in mapping] == [
        ("uri", BOTS["uri"]),
        ("dns", "a.b"),
        ("subject", "CN=a"),
    ]
    assert made(**ASKING, gateway_san_header="X-San").tls.gateway_san_header == "x-san"


def test_paths_are_taken_from_the_state_folder(tmp_path: Path) -> None:
    tls = made(certificate="tls/server.pem", key="/abs/server.key").tls
    assert tls.certificate is not None
    assert tls.key is not None
    assert tls.file(tls.certificate, tmp_path) == tmp_path / "tls" / "server.pem"
    assert tls.file(tls.key, tmp_path) == Path("/abs/server.key")


def test_a_file_and_the_environment_say_it(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[tls]\ncertificate = "a"\nkey = "b"\nclient_ca = "c"\nclient_certificates = "optional"\n'
        '[[tls.mapping]]\nuri = "spiffe://opta/tenant/t1/*"\ntenant = "t1"\n'
    )
    assert load_settings(home=tmp_path, file=file, env={}, flags={}).settings.tls.mapping
    # As a server of a conversation's own has it, whatever the file says.
    off = {"CERTIFICATE": "", "KEY": "", "CLIENT_CA": "", "CLIENT_CERTIFICATES": "off"}
    env = {f"LMX_TLS__{name}": text for name, text in {**off, "MAPPING": "[]"}.items()}
    tls = load_settings(home=tmp_path, file=file, env=env, flags={}).settings.tls
    assert not tls.enabled
    with pytest.raises(LmxError, match="go together"):
        load_settings(home=tmp_path, file=file, env={"LMX_TLS__KEY": ""}, flags={})


def internet(**tls: Any) -> Settings:
    tree = {"server": {"host": "8.8.8.8"}, "security": {"profile": "internet"}}
    return Settings.model_validate({**tree, "access": NAMED, "tls": tls})


def test_a_server_that_encrypts_may_face_the_internet() -> None:
    without = missing(internet(), 0)
    assert len(without) == 2
    assert missing(internet(**FILES), 0) == []
    assert missing(internet(**ASKING, mapping=[BOTS]), 0) == []


def test_other_profiles_ask_for_what_they_did() -> None:
    for profile, lacking in (("loopback", 1), ("trusted-gateway", 1), ("lan", 0)):
        tree = {"server": {"host": "10.0.0.1"}, "security": {"profile": profile}, "tls": FILES}
        assert len(missing(Settings.model_validate({**tree, "access": NAMED}), 0)) == lacking


def test_a_known_certificate_is_as_good_as_a_key() -> None:
    """Then nobody unknown may come in, not even on loopback."""
    known = made(**ASKING, mapping=[BOTS])
    assert keys_required(known)
    assert missing(known, 0) == []
    for asked in (made(**FILES), made(**ASKING)):
        assert not keys_required(asked)
    only_a_gateway = made(**ASKING, gateway=["gw.example"])
    assert keys_required(only_a_gateway)
    assert len(missing(only_a_gateway, 0)) == 1


def test_the_table_tells_what_is_set() -> None:
    told = {rule.name: rule for rule in rules(made(**ASKING, gateway=["gw.example"]), 1)}
    assert told["TLS"].found.startswith("here; certificates of clients: required; a gateway")
    assert "not visible" in {rule.name: rule for rule in rules(Settings(), 0)}["TLS"].found
