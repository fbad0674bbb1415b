import json
import sys
from pathlib import Path

import pytest

from opta_lmx.cli.openclaw_file import Served, merged, provider_block
from scripts.openclaw.client import environment, run_bounded
from scripts.openclaw.modes import LM_STUDIO, MODES, Mode, edit, told
from scripts.openclaw.report import render
from scripts.openclaw.turns import Result
from tests.support.process import wait_gone

ROOT = "http://127.0.0.1:1"
OWN = [mode for mode in MODES if mode.name != LM_STUDIO]


@pytest.mark.parametrize("mode", OWN, ids=[mode.name for mode in OWN])
def test_our_own_block_is_changed_in_api_address_and_limits_alone(
    tmp_path: Path, mode: Mode
) -> None:
    served = Served("m", 4096, 1024)
    block = provider_block("http://127.0.0.1:9", "key", [served])
    file = tmp_path / "openclaw.json"
    file.write_text(json.dumps(merged({}, block, "m")))
    edit(file, mode, ROOT, (48, 32_768))
    got = json.loads(file.read_text())["models"]["providers"]["opta"]
    assert got["api"] == mode.name
    assert got["baseUrl"] == (ROOT if mode.name == "anthropic-messages" else f"{ROOT}/v1")
    (model,) = got.pop("models")
    assert (model["maxTokens"], model["contextWindow"]) == (48, 32_768)
    changed = {"api", "baseUrl", "timeoutSeconds", "models"}
    assert {k: v for k, v in block.items() if k not in changed}.items() <= got.items()


def test_the_provider_of_onboarding_keeps_what_it_wrote(tmp_path: Path) -> None:
    model = {"id": "m", "contextWindow": 4096, "contextTokens": 4096, "maxTokens": 4096}
    block = {"baseUrl": "http://127.0.0.1:7/v1", "api": "openai-completions", "models": [model]}
    file = tmp_path / "openclaw.json"
    file.write_text(json.dumps({"models": {"providers": {LM_STUDIO: block}}}))
    edit(file, MODES[-1], ROOT, (48, None))
    got = json.loads(file.read_text())["models"]["providers"][LM_STUDIO]
    assert got["baseUrl"] == block["baseUrl"]
    assert got["models"] == [model | {"maxTokens": 48}]


def test_another_window_is_claimed_only_where_asked() -> None:
    entry = {"id": "m", "contextWindow": 4096, "contextTokens": 2048}
    assert told(entry, 5) == entry | {"maxTokens": 5}
    wide = {"contextWindow": 9000, "contextTokens": 9000, "maxTokens": 5}
    assert told(entry, 5, 9000) == entry | wide


def test_nobodys_own_settings_reach_openclaw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCLAW_CONFIG_PATH", "/somewhere")
    monkeypatch.setenv("LM_API_TOKEN", "token")
    env = environment(Path("/b"), Path("/h"))
    assert env["HOME"] == "/h"
    assert env["PATH"].startswith("/b:")
    assert not {"OPENCLAW_CONFIG_PATH", "LM_API_TOKEN"} & env.keys()


def test_a_command_that_takes_too_long_is_ended_with_its_children() -> None:
    wait = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {wait!r}])"
    done = run_bounded([sys.executable, "-c", parent], {"PATH": ""}, 2)
    assert done.status is None
    wait_gone(int(done.out), 5)


def test_the_report_shows_each_turn_and_says_what_is_wrong() -> None:
    good = Result("openai-completions", "plain", 0, (200,), 1.25, (), ())
    bad = Result("lmstudio", "overflow", None, (200, 400), 2.0, ("no answer",), ("new header x",))
    drifted = Result("lmstudio", "plain", 0, (200,), 2.0, (), ("new header x",))
    text = render("2026.9.6", [good, bad, drifted])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["openai-completions", "plain", "ok", "0", "1", "200", "1.2"] in cells
    assert ["lmstudio", "overflow", "FAILED", "none", "2", "200 400", "2.0"] in cells
    assert ["lmstudio", "plain", "drift", "0", "1", "200", "2.0"] in cells
    assert "- lmstudio, overflow: no answer" in text
    assert text.count("new header x") == 1
