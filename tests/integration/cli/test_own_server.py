"""Commands against our own server, its models played by the simulation in real workers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Command
from tests.support.server import LiveServer, sim_server

KEY = "sk-of-the-test"
SCRIPTS = {"m": {"reply": "one two three four"}, "deaf": {"fail_load": "no such weights"}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with sim_server(tmp_path / "state", SCRIPTS, server={"api_keys": [KEY]}) as running:
        yield running


@pytest.fixture
def here(server: LiveServer) -> dict[str, str]:
    """Settings whose server is the running one."""
    port = server.url.rpartition(":")[2]
    return {"LMX_SERVER__PORT": port, "LMX_SERVER__API_KEYS": f'["{KEY}"]'}


def test_load_ask_look_unload(command: Command, here: dict[str, str]) -> None:
    assert command("ps", **here).stdout.startswith("No model is loaded.")
    assert command("load", "m", **here).exit_code == 0
    answer = command("chat", "--model", "m", "Hi", **here)
    assert answer.exit_code == 0
    assert answer.stdout.split() == ["one", "two", "three", "four"]
    assert answer.stderr.count("\n") == 1
    assert " tokens" in answer.stderr
    (shown,) = json.loads(command("ps", "--json", **here).stdout)["models"]
    assert (shown["id"], shown["state"]) == ("m", "ready")
    assert "ready" in command("ps", **here).stdout
    assert command("unload", "m", **here).exit_code == 0
    assert command("ps", **here).stdout.startswith("No model is loaded.")


def test_refusals_keep_their_codes(
    command: Command, server: LiveServer, here: dict[str, str]
) -> None:
    unknown = command("chat", "--model", "absent", "Hi", **here)
    assert (unknown.exit_code, "[model_not_found]" in unknown.stderr) == (1, True)
    broken = command("load", "deaf", **here)
    assert broken.exit_code == 1
    assert "no such weights" in broken.stderr
    stranger = command("ps", "--url", server.url, "--api-key", "sk-wrong")
    assert stranger.exit_code == 1
    assert "key" in stranger.stderr


def test_doctor_knows_our_own_server(
    command: Command, here: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opta_lmx.cli.checks.backends", lambda: iter(()))
    result = command("doctor", "--json", **here)
    assert result.exit_code == 0
    port = f"port {here['LMX_SERVER__PORT']}"
    checks = {check["subject"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks[port]["state"] == "ok"
    assert checks[port]["detail"].startswith("Opta LMX ")
