"""What the documents say is so: links, commands, settings, the OpenClaw block."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from opta_lmx.api.openai.wire import ChatCompletionRequest
from opta_lmx.api.preset_files import parse_preset
from opta_lmx.cli.main import app
from opta_lmx.cli.openclaw_file import NO_KEY, Served, answer_limit, merged, provider_block
from opta_lmx.config.explain import shown
from opta_lmx.config.load import load_settings
from opta_lmx.config.settings import fields
from tests.unit.house.tree import ROOT, committed_files, make_targets, name_of

DOCUMENTS = [path for path in committed_files() if path.suffix == ".md"]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Code blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert pages
    assert re.findall(r"\((\d{4}-[^)]+)\)", (folder / "README.md").read_text()) == pages


def test_make_targets_exist() -> None:
    for path in DOCUMENTS:
        # In prose "make" is followed by other words; code spans and prompts are commands.
        named = re.findall(r"(?:`|\$ )make ([a-z-]+)", path.read_text())
        assert set(named) <= make_targets(), name_of(path)


def test_commands_exist() -> None:
    command = get_command(app)
    known = set(getattr(command, "commands", {}))
    named = set(re.findall(r"opta-lmx ([a-z]+)", README))
    assert named
    assert named <= known


def test_the_fields_said_to_work_exist() -> None:
    (row,) = re.findall(r"^\| Chat \|(.*)\|$", README, flags=re.MULTILINE)
    named = re.findall(r"`([a-z_]+)`", row)
    assert len(named) > 10
    assert set(named) <= set(ChatCompletionRequest.model_fields)


def test_the_configuration_is_accepted() -> None:
    file = Path.home() / "readme.toml"
    first, preset, keys = blocks("toml")
    file.write_text(first)
    settings = load_settings(home=ROOT, file=file, env={}, flags={}).settings
    assert settings.server.port == 1234
    assert parse_preset("tutor", tomllib.loads(preset)).alias == "teacher"
    file.write_text(keys)
    (key,) = load_settings(home=ROOT, file=file, env={}, flags={}).settings.access.keys
    # Every field but the one that the text tells of.
    assert type(key).model_fields.keys() - key.model_fields_set == {"tenant"}


def test_the_settings_are_as_said() -> None:
    said = dict(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| `([^`]*)` \|", README, flags=re.MULTILINE))
    assert said
    known = {key: shown(field.default) for key, field in fields().items()}
    assert said == {key: known.get(key) for key in said}


def test_the_python_is_python() -> None:
    assert [ast.parse(text) for text in blocks("python")]


def test_the_openclaw_block_is_what_the_command_prints() -> None:
    (text,) = blocks("json")
    window = 32_768
    served = Served("starter-long", window, answer_limit(window))
    block = provider_block("http://127.0.0.1:1234", NO_KEY, [served])
    assert json.loads(text) == merged({}, block, served.id)
