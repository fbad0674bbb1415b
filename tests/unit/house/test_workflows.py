"""Workflows only call make, and trust no moving tag."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.house.tree import ROOT, make_targets

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
USES = re.compile(r"^\s*(?:- )?uses:\s*(\S+)\s*(#.*)?$", flags=re.MULTILINE)


def steps(path: Path) -> list[dict[str, Any]]:
    """All steps of all jobs of a workflow."""
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_there_are_three() -> None:
    assert [path.stem for path in WORKFLOWS] == ["extras", "fast", "full"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_run_make_targets_only(path: Path) -> None:
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        match = re.fullmatch(r"make ([a-z-]+)", command.strip())
        assert match is not None, command
        assert match[1] in make_targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = USES.findall(path.read_text())
    assert len(used) == sum("uses" in step for step in steps(path))
    for action, remark in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r"# v\d+\.\d+\.\d+", remark), f"{action} does not name its version"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_tokens_can_only_read(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_every_extra_and_python_is_in_the_matrix() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/extras.yml").read_text())
    values = matrix["jobs"]["extras"]["strategy"]["matrix"]
    assert set(values["extra"]) == {"base", "gguf", "mlx", "all", "cuda"}
    assert values["python"] == ["3.11", "3.12", "3.13"]


def test_actionlint_finds_nothing() -> None:
    command = [str(Path(sys.executable).with_name("actionlint")), *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
