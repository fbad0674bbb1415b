"""`tls init`, `issue`, `renew`, `list`, and what `doctor` says of certificates."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.cli.checks import Check
from opta_lmx.cli.session import open_session
from opta_lmx.cli.tls_checks import certificates
from opta_lmx.config import Settings
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.server import open_encryption
from tests.unit.cli.conftest import Command


def listed(command: Command) -> dict[str, dict[str, Any]]:
    found = json.loads(command("tls", "list", "--json").stdout)["certificates"]
    return {one["name"]: one for one in found}


def test_what_is_printed_is_a_configuration_that_works(command: Command, home: Path) -> None:
    assert command("tls", "list", "--json").stdout == '{\n  "certificates": []\n}\n'
    made = command("tls", "init")
    assert made.exit_code == 0, made.output
    issued = command("tls", "issue", "bot-1", "--tenant", "t1")
    settings = Settings.model_validate(tomllib.loads(f"{made.stdout}\n{issued.stdout}"))
    assert open_encryption(settings.tls, home, NullTelemetry()).scheme == "https"
    (rule,) = settings.tls.mapping
    assert rule.pattern == ("uri", "spiffe://opta/tenant/t1/*")
    assert "PRIVATE" not in made.output + issued.output


def test_a_gateways_certificate(command: Command) -> None:
    command("tls", "init", "--host", "box.example")
    issued = command("tls", "issue", "edge", "--gateway", "--host", "gw.example")
    assert tomllib.loads(issued.stdout)["tls"]["gateway"] == ["spiffe://opta/gateway/edge"]
    found = listed(command)
    assert found["server"]["known_as"] == ["box.example"]
    assert found["edge"]["known_as"] == ["spiffe://opta/gateway/edge", "gw.example"]
    assert found["edge"]["days_left"] == 30
    assert command("tls", "list").stdout.splitlines()[0].split()[0] == "name"


def test_days_and_renewing(command: Command) -> None:
    command("tls", "init", "--days", "10")
    command("tls", "issue", "a", "--tenant", "t1", "--days", "2")
    assert {name: one["days_left"] for name, one in listed(command).items()} == {
        "server": 10,
        "a": 2,
    }
    assert command("tls", "renew", "a", "--days", "3").exit_code == 0
    assert command("tls", "renew").exit_code == 0
    assert {name: one["days_left"] for name, one in listed(command).items()} == {
        "server": 10,
        "a": 3,
    }


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["init"], "ca_exists"),
        (["issue", "a"], "invalid_request"),
        (["issue", "a", "--tenant", "t", "--gateway"], "invalid_request"),
        (["issue", "../a", "--tenant", "t"], "invalid_request"),
        (["issue", "a", "--tenant", "t/x"], "invalid_request"),
        (["issue", "a", "--tenant", "t", "--days", "1000"], "invalid_request"),
        (["issue", "a", "--tenant", "t", "--host", "a b"], "invalid_request"),
        (["renew", "nobody"], "certificate_not_found"),
        (["renew", "../server"], "invalid_request"),
    ],
)
def test_refusals(command: Command, home: Path, arguments: list[str], code: str) -> None:
    command("tls", "init")
    before = sorted(home.rglob("*"))
    result = command("tls", *arguments)
    assert result.exit_code == 1
    assert f"[{code}]" in result.stderr
    assert sorted(home.rglob("*")) == before


def checks() -> dict[str, Check]:
    return {check.subject: check for check in certificates(open_session())}


def test_certificates_are_looked_at(
    command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks() == {}
    command("tls", "init", "--days", "10")
    files = {name: home / "tls" / name for name in ("server.pem", "server.key", "ca.pem")}
    monkeypatch.setenv("LMX_TLS__CERTIFICATE", str(files["server.pem"]))
    monkeypatch.setenv("LMX_TLS__KEY", str(files["server.key"]))
    monkeypatch.setenv("LMX_TLS__CLIENT_CA", str(files["ca.pem"]))
    monkeypatch.setenv("LMX_TLS__CLIENT_CERTIFICATES", "optional")
    found = checks()
    assert found["tls server"].state == "warning"
    assert "opta-lmx tls renew" in found["tls server"].detail
    assert found["tls client_ca"].state == "ok"
    assert "tls key" not in found
    command("tls", "renew", "--days", "90")
    files["server.key"].chmod(0o644)
    found = checks()
    assert found["tls server"].state == "ok"
    assert found["tls key"].state == "warning"
    files["server.key"].write_text("rubbish")
    broken = checks()["tls"]
    assert broken.state == "broken"
    assert "tls.key" in broken.detail
