"""The lock pins and hashes everything, and says nothing of where it was made."""

import re
import tomllib
from itertools import pairwise
from typing import Any

import pytest

from tests.unit.house.tree import ROOT

LOCK = ROOT / "requirements-ci-lock.txt"
PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==([^\s;]+)(?: ; [^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")


def pins() -> dict[str, set[str]]:
    """Locked versions by package (numpy has one for each Python)."""
    found: dict[str, set[str]] = {}
    for line in LOCK.read_text().splitlines():
        match = PIN.match(line)
        if match:
            found.setdefault(match[1], set()).add(match[2])
    return found


def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def test_every_line_is_a_pin_or_a_hash() -> None:
    # So no index, host, path, option or remark can be in it.
    lines = LOCK.read_text().splitlines()
    assert len(lines) > 100
    assert [line for line in lines if not PIN.match(line) and not HASH.match(line)] == []


def test_every_pin_has_a_hash() -> None:
    lines = LOCK.read_text().splitlines()
    after = [following for line, following in pairwise(lines) if PIN.match(line)]
    assert after
    assert all(HASH.match(line) for line in after)


def requirements() -> list[str]:
    """Everything the project asks for, but for the GPU extra, which no CI machine can run."""
    table = project()
    optional = table["optional-dependencies"]
    listed = [line for name, lines in optional.items() if name != "cuda" for line in lines]
    return [*table["dependencies"], *(line for line in listed if not line.startswith("opta-lmx"))]


@pytest.mark.parametrize("requirement", requirements())
def test_every_requirement_is_locked(requirement: str) -> None:
    match = re.match(r"([A-Za-z0-9-]+)(?:\[[^\]]*\])?(?:==([^;]+))?", requirement)
    assert match is not None
    versions = pins().get(match[1].lower())
    assert versions, f"`make lock` was not run after {requirement} was added"
    if match[2]:
        assert match[2].strip() in versions


def test_every_platform_is_covered() -> None:
    text = LOCK.read_text()
    assert "mlx-metal==" in text
    assert "mlx-cpu==" in text


def test_nothing_brings_torch() -> None:
    assert "torch" not in pins()
