"""docs/security/attack-classes.md: every test it names exists, and every test here is in it."""

import ast
import re
import subprocess
import sys

import pytest

from tests.unit.house.tree import ROOT

PAGE = (ROOT / "docs" / "security" / "attack-classes.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| Class ")
]
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+\.py(?:::\w+)?)`", PAGE)))
# What the original list of classes asks for, each as a word of its row.
ASKED = (
    "bombs",
    "slow clients",
    "slow patterns",
    "templates without end",
    "server-side requests",
    "path traversal",
    "huge `n`",
    "negative",
    "models that bring code",
    "rebinding",
    "log injection",
    "caches across tenants",
    "forged addresses",
    "key comparison",
    "gguf",
    "supply chain",
)


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    }


@pytest.mark.parametrize("name", NAMED)
def test_the_test_exists(name: str) -> None:
    path, _, test = name.partition("::")
    found = functions_of(path)
    assert found
    assert not test or test in found


def test_every_class_has_its_defence_and_tests() -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        assert len(row) == 4, row
        assert all(row), row
        assert "`tests/" in row[3], row


@pytest.mark.parametrize("words", ASKED)
def test_the_class_is_there(words: str) -> None:
    assert any(words in row[0].lower() for row in ROWS)


def test_every_file_of_this_folder_is_named() -> None:
    here = {f"tests/security/{path.name}" for path in (ROOT / "tests/security").glob("test_*.py")}
    named = {name.partition("::")[0] for name in NAMED}
    assert here - named == {"tests/security/test_attack_classes.py"}


def test_what_is_named_is_collected() -> None:
    ours = sorted({name for name in NAMED if name.startswith("tests/security/")})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *ours], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    for name in ours:
        assert name in done.stdout, name
