"""`config explain` and `config path`."""

import json
from pathlib import Path

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


def test_path(command: Command, home: Path) -> None:
    assert command("config", "path").stdout.splitlines() == [
        f"home    {home}",
        f"config  {home / 'config.toml'} (absent)",
        f"models  {home / 'models'}",
    ]
