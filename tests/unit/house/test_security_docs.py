"""What docs/security says of profiles, settings and commands is so."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from opta_lmx.cli.main import app
from opta_lmx.config import Settings, load_settings
from opta_lmx.config.profiles import PROFILES, missing, rules
from opta_lmx.config.settings import fields
from tests.unit.house.tree import ROOT, name_of

FOLDER = ROOT / "docs" / "security"
PAGES = [*sorted(FOLDER.glob("*.md")), ROOT / "SECURITY.md"]
PROFILES_PAGE = (FOLDER / "profiles.md").read_text()
WORDS = {"start": "start", "request": "request", "operator": "you"}


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells, without headings and rulers."""
    found = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
        for block in found
    ]


def commands(text: str) -> list[list[str]]:
    """The words of each `opta-lmx` command in code, without redirection and remarks."""
    spans = re.findall(r"^\$ (opta-lmx .*)$|`(opta-lmx [^`]*)`", text, flags=re.MULTILINE)
    return [
        shlex.split(re.split(r"\s(?:#|>)\s", (line or span).replace("\n", " "))[0])[1:]
        for line, span in spans
    ]


def test_the_profiles_are_those_there_are() -> None:
    purposes, _ = tables(PROFILES_PAGE)
    assert purposes == [[f"`{name}`", profile.purpose] for name, profile in PROFILES.items()]


def test_the_rules_are_the_programs_own() -> None:
    _, said = tables(PROFILES_PAGE)
    columns = [rules(Settings(), 0, name) for name in PROFILES]
    assert said == [
        [row[0].name, *(rule.asks for rule in row), WORDS[row[0].enforced]]
        for row in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_settings_and_codes_exist(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", text)) - {"config.toml"}
    assert named <= fields().keys()
    source = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    codes = re.findall(r"\b[1-5]\d\d `([a-z_]+)`", text)
    assert [code for code in codes if f'"{code}"' not in source] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_and_their_options_exist(path: Path) -> None:
    for words in commands(path.read_text()):
        command: Any = get_command(app)
        rest = list(words)
        while rest and rest[0][0] != "-" and hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        asked = {word for word in rest if word.startswith("--")}
        assert asked <= known, words


def test_the_recipe_meets_its_profile_once_a_key_was_made(tmp_path: Path) -> None:
    text, *_ = re.findall(
        r"^```toml\n(.*?)^```", (FOLDER / "recipes.md").read_text(), flags=re.MULTILINE | re.DOTALL
    )
    file = tmp_path / "config.toml"
    file.write_text(text)
    settings = load_settings(home=tmp_path, file=file, env={}, flags={}).settings
    assert settings.security.profile == "lan"
    assert len(missing(settings, 0)) == 1
    assert missing(settings, 1) == []
