"""docs/openclaw.md says what the program does."""

import re
from pathlib import Path

from scripts.openclaw.cases import CASES
from scripts.openclaw.client import NODE_VERSION, OPENCLAW_VERSION
from scripts.openclaw.modes import LM_STUDIO, MODES
from scripts.openclaw.server import SHORT_WINDOW, WINDOW

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "openclaw.md").read_text()
ROWS = [[cell.strip() for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if "|" in row]


def test_versions() -> None:
    assert f"OpenClaw {OPENCLAW_VERSION} with node {NODE_VERSION}" in PAGE
    assert OPENCLAW_VERSION in (ROOT / "README.md").read_text()


def test_ways() -> None:
    rows = {re.sub(r"provider |`", "", row[1]): row for row in ROWS}
    for mode in MODES:
        _, _, address, calls = rows[mode.name]
        assert address == f"`http://127.0.0.1:1234{mode.suffix}`"
        assert f"`POST {mode.dialect.path}`" in calls
    assert f"--auth-choice {LM_STUDIO}" in PAGE


def test_courses() -> None:
    named = {row[0].strip("`") for row in ROWS}
    assert {case.name for case in CASES} <= named
    (row,) = [row for row in ROWS if row[0] == "`overflow`"]
    assert f"{WINDOW:,} tokens where the model has {SHORT_WINDOW:,}" in row[1]


def test_watchers() -> None:
    workflow = (ROOT / ".github" / "workflows" / "full.yml").read_text()
    for row in ROWS:
        for job in re.findall(r"job `([\w-]+)`", row[0]):
            assert f"\n  {job}:\n" in workflow
