"""`doctor`: sees what is wrong, says it, and changes nothing."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from opta_lmx.cli import checks
from tests.unit.cli.conftest import Command


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture(autouse=True)
def _no_engine_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    # Importing the engines takes seconds; one test below does it.
    monkeypatch.setattr(checks, "backends", lambda: iter(()))


def found(result: Result) -> dict[str, dict[str, Any]]:
    return {check["subject"]: check for check in json.loads(result.stdout)["checks"]}


def test_a_fresh_home_is_healthy_and_stays_untouched(command: Command, home: Path) -> None:
    before = tree(home.parent)
    result = command("doctor", "--json", LMX_SERVER__PORT="0")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ok"] is True
    subjects = found(result)
    assert {"processor", "memory", "accelerator", "configuration", "home"} <= set(subjects)
    assert subjects["configuration"]["detail"] == "environment LMX_SERVER__PORT"
    assert tree(home.parent) == before


def test_for_people_each_finding_is_a_line(command: Command) -> None:
    result = command("doctor", LMX_SERVER__PORT="0")
    assert "ok       configuration: environment LMX_SERVER__PORT\n" in result.stdout


def test_a_taken_port_is_broken_and_its_holder_named(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The listener never answers: the question whether it is ours must end by itself.
    monkeypatch.setattr(checks, "_HEALTH_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = command("doctor", "--json", LMX_SERVER__PORT=str(port))
    assert result.exit_code == 1
    check = found(result)[f"port {port}"]
    assert check["state"] == "broken"
    assert str(os.getpid()) in check["detail"]
    assert check["detail"].endswith(": stop that, or set server.port")


def test_a_broken_configuration_does_not_hide_the_rest(command: Command, home: Path) -> None:
    (home / "config.toml").write_text("[server]\nprot = 1\n")
    result = command("doctor", "--json")
    assert result.exit_code == 1
    checked = found(result)
    assert checked["configuration"]["state"] == "broken"
    assert "did you mean server.port?" in checked["configuration"]["detail"]
    assert checked["home"]["state"] == "ok"


def test_a_home_that_cannot_be_is_broken(command: Command, home: Path) -> None:
    (home / "plain").write_text("")
    result = command("doctor", "--json", LMX_HOME=str(home / "plain" / "x"), LMX_SERVER__PORT="0")
    assert result.exit_code == 1
    assert found(result)["home"]["detail"].startswith(
        f"{home / 'plain'} is not a folder: set LMX_HOME"
    )


def test_secrets_that_others_may_read_are_named(command: Command, home: Path) -> None:
    file = home / "config.toml"
    file.write_text('[server]\napi_keys = ["sk-1"]\nport = 0\n')
    file.chmod(0o644)
    checked = found(command("doctor", "--json"))
    assert checked["secrets"]["state"] == "warning"
    assert checked["secrets"]["detail"].endswith(f"chmod 600 {file}")
    file.chmod(0o600)
    assert "secrets" not in found(command("doctor", "--json"))


def test_what_the_security_profile_lacks_is_broken(command: Command) -> None:
    fine = command("doctor", "--json", LMX_SERVER__PORT="0")
    assert found(fine)["profile loopback"]["state"] == "ok"
    result = command(
        "doctor", "--json", LMX_SERVER__PORT="0", LMX_SECURITY__PROFILE="trusted-gateway"
    )
    assert result.exit_code == 1
    told = [
        one["detail"]
        for one in json.loads(result.stdout)["checks"]
        if one["subject"] == "profile trusted-gateway" and one["state"] == "broken"
    ]
    assert [detail.split(":")[0] for detail in told] == ["keys", "trusted proxies"]
    assert command("keys", "create", "--name", "bot").exit_code == 0
    met = command(
        "doctor",
        "--json",
        LMX_SERVER__PORT="0",
        LMX_SECURITY__PROFILE="trusted-gateway",
        LMX_SECURITY__TRUSTED_PROXIES='["127.0.0.1"]',
    )
    assert found(met)["profile trusted-gateway"]["state"] == "ok"


@pytest.mark.parametrize(
    ("profile", "host", "proxies", "told"),
    [
        ("internet", "127.0.0.1", '["10.0.0.0/8"]', True),
        ("internet", "10.0.0.2", '["127.0.0.0/8"]', True),
        ("trusted-gateway", "10.0.0.2", '["::1"]', True),
        ("trusted-gateway", "10.0.0.2", '["10.0.0.1"]', False),
        ("lan", "127.0.0.1", '["127.0.0.1"]', False),
        ("loopback", "127.0.0.1", "[]", False),
    ],
)
def test_a_proxy_that_cannot_be_told_from_this_machine_is_named(
    command: Command, profile: str, host: str, proxies: str, *, told: bool
) -> None:
    result = command(
        "doctor",
        "--json",
        LMX_SERVER__PORT="0",
        LMX_SERVER__HOST=host,
        LMX_SECURITY__PROFILE=profile,
        LMX_SECURITY__TRUSTED_PROXIES=proxies,
    )
    assert ("proxy" in found(result)) is told
    if told:
        assert "neither Forwarded nor X-Forwarded-For" in found(result)["proxy"]["detail"]


def test_a_damaged_model_is_broken(command: Command, home: Path) -> None:
    model = home / "models" / "hurt"
    model.mkdir(parents=True)
    (model / "weights.gguf").write_bytes(b"nothing")
    result = command("doctor", "--json", LMX_SERVER__PORT="0")
    assert result.exit_code == 1
    assert found(result)["model hurt"]["state"] == "broken"
    assert "opta-lmx rm hurt" in found(result)["model hurt"]["detail"]


def test_an_address_that_is_not_here_is_broken(command: Command) -> None:
    result = command(
        "doctor", "--json", LMX_SERVER__HOST="box.invalid", LMX_SERVER__API_KEYS='["k"]'
    )
    assert result.exit_code == 1
    detail = found(result)["port 1234"]["detail"]
    assert "box.invalid cannot be used" in detail
    assert ": set server.host" in detail


def test_a_refused_value_is_told_in_a_line_with_what_to_do(command: Command) -> None:
    result = command("doctor", LMX_SERVER__PORT="many")
    (line,) = [one for one in result.stdout.splitlines() if one.startswith("broken")]
    assert line.startswith("broken   configuration: server.port: Input should be")
    assert line.endswith("from environment LMX_SERVER__PORT: correct it there")


def test_little_room_is_told_with_what_to_do(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_SCARCE_BYTES", 1 << 62)
    disk = found(command("doctor", "--json", LMX_SERVER__PORT="0"))["disk"]
    assert disk["state"] == "warning"
    assert "opta-lmx rm NAME" in disk["detail"]
