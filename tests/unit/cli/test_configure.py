"""`config explain` and `config path`."""

import json
from pathlib import Path
from typing import Any

from typer.testing import Result

from opta_lmx.config.profiles import PROFILES
from tests.unit.cli.conftest import Command


def test_explain_names_every_source(command: Command, home: Path) -> None:
    (home / "config.toml").write_text("[queue]\nmax_waiting = 5\n")
    shown = command("config", "explain", "--json", LMX_SERVER__PORT="9", LMX_MODELS__DIR="/m")
    rows = {row["key"]: row for row in json.loads(shown.stdout)}
    assert rows["queue.max_waiting"]["origin"] == f"file {home / 'config.toml'}"
    assert rows["server.port"] == {
        "key": "server.port",
        "value": "9",
        "origin": "environment LMX_SERVER__PORT",
        "description": rows["server.port"]["description"],
    }
    assert rows["logging.level"]["origin"] == "default"


def test_explain_of_one_key_or_section(command: Command) -> None:
    one = command("config", "explain", "server.port").stdout
    assert "server.port" in one
    assert "server.host" not in one
    section = json.loads(command("config", "explain", "queue", "--json").stdout)
    assert {row["key"].split(".")[0] for row in section} == {"queue"}


def test_explain_of_an_unknown_key_suggests_one(command: Command) -> None:
    result = command("config", "explain", "server.prot")
    assert result.exit_code == 1
    assert "did you mean server.port?" in result.stderr


def test_explain_shows_no_secret(command: Command) -> None:
    shown = command("config", "explain", LMX_SERVER__API_KEYS='["sk-hidden"]')
    assert "hidden" not in shown.output
    assert "********" in shown.output


def rules(result: Result) -> dict[str, dict[str, Any]]:
    return {rule["name"]: rule for rule in json.loads(result.stdout)["rules"]}


def test_a_profile_is_explained_beside_what_is_set(command: Command) -> None:
    shown = command("config", "explain", "--profile", "lan", LMX_SERVER__HOST="192.168.7.9")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("lan (not in force): ")
    (line,) = [one for one in shown.stdout.splitlines() if one.startswith("listens ")]
    assert "on any address" in line
    assert "192.168.7.9" in line
    assert "missing" not in line
    assert "\nMissing:\n- Callers must show a key" in shown.stdout
    told = rules(command("config", "explain", "--profile", "lan", "--json"))
    assert told["keys"]["asks"] == "a key with each request"
    assert "opta-lmx keys create" in told["keys"]["missing"]


def test_a_stored_key_counts(command: Command, home: Path) -> None:
    asked = ("config", "explain", "--profile", "trusted-gateway", "--json")
    assert rules(command(*asked))["keys"]["missing"] is not None
    assert not (home / "lmx.db").exists()
    assert command("keys", "create", "--name", "bot").exit_code == 0
    told = rules(command(*asked))["keys"]
    assert (told["found"], told["missing"]) == ("1 key", None)
    assert not list(home.glob("lmx.db-*"))
    assert command("keys", "revoke", "bot").exit_code == 0
    assert rules(command(*asked))["keys"]["found"] == "no keys"


def test_a_database_that_is_none_holds_no_keys(command: Command, home: Path) -> None:
    (home / "lmx.db").write_bytes(b"nothing of the kind" * 1000)
    told = rules(command("config", "explain", "--profile", "lan", "--json"))
    assert told["keys"]["missing"] is not None


def test_a_profile_shows_no_secret(command: Command) -> None:
    for name in PROFILES:
        shown = command("config", "explain", "--profile", name, LMX_SERVER__API_KEYS='["sk-hid"]')
        assert shown.exit_code == 0
        assert "sk-hid" not in shown.output


def test_an_unknown_profile_is_refused_with_those_there_are(command: Command) -> None:
    result = command("config", "explain", "--profile", "wan")
    assert result.exit_code == 1
    assert "loopback, lan, trusted-gateway, internet" in result.stderr
    assert command("config", "explain", "server", "--profile", "lan").exit_code == 1


def test_path(command: Command, home: Path) -> None:
    assert command("config", "path").stdout.splitlines() == [
        f"home    {home}",
        f"config  {home / 'config.toml'} (absent)",
        f"models  {home / 'models'}",
    ]
