"""Tests wait for what they need, not for a time that is hoped to be enough.

Only a function whose name says that it polls (`wait…`, `until…`, `poll…`, `eventually…`) may
pause for a constant time of 50 ms or more.
"""

import ast
from collections.abc import Iterator

from tests.unit.house.tree import ROOT, name_of, parsed, python_files

LONGEST_S = 0.05
POLLING = ("wait", "until", "poll", "eventually")


def fixed_sleeps(tree: ast.AST, *, polling: bool = False) -> Iterator[int]:
    """Line numbers of calls to a `sleep` with a long constant outside a polling function."""
    for node in ast.iter_child_nodes(tree):
        inside = polling
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = polling or node.name.lstrip("_").startswith(POLLING)
        if isinstance(node, ast.Call) and not inside and is_long_sleep(node):
            yield node.lineno
        yield from fixed_sleeps(node, polling=inside)


def is_long_sleep(call: ast.Call) -> bool:
    """True for `….sleep(0.05)` and longer, where the time is a number in the code."""
    if ast.unparse(call.func).split(".")[-1] != "sleep" or not call.args:
        return False
    seconds = call.args[0]
    if not isinstance(seconds, ast.Constant) or not isinstance(seconds.value, int | float):
        return False
    return seconds.value >= LONGEST_S


def test_no_fixed_sleeps() -> None:
    tests = [path for path in python_files() if path.is_relative_to(ROOT / "tests")]
    found = [f"{name_of(path)}:{line}" for path in tests for line in fixed_sleeps(parsed(path))]
    assert tests
    assert found == []


def test_the_finder_itself() -> None:
    source = (
        "def test_x():\n    time.sleep(1)\n    sleep(0.01)\ndef wait_for():\n    time.sleep(0.1)\n"
    )
    assert list(fixed_sleeps(ast.parse(source))) == [2]
