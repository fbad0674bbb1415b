"""The project's own files, as the house tests look at them."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "opta_lmx"
PYTHON_FOLDERS = ("src", "tests", "scripts", "benchmarks")


@cache
def python_files() -> tuple[Path, ...]:
    """Every Python file of the project, sorted."""
    found = (path for folder in PYTHON_FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path for path in found if "__pycache__" not in path.parts))


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def committed_files() -> tuple[Path, ...]:
    """Files under version control, and new ones that are not ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    paths = (ROOT / name for name in listing.split("\0") if name)
    return tuple(path for path in paths if path.is_file())


@cache
def make_targets() -> frozenset[str]:
    """Targets the Makefile defines."""
    text = (ROOT / "Makefile").read_text()
    return frozenset(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))


def name_of(path: Path) -> str:
    """The path as people say it: relative to the project."""
    return path.relative_to(ROOT).as_posix()
