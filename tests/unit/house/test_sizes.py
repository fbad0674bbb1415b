"""Files, functions, classes and constructors stay small enough to be read at once.

A collaborator is a constructor parameter that is not a plain value: anything but strings,
numbers, booleans, bytes, paths, callables and containers of those. Records (msgspec structs,
pydantic models) carry data and are not counted; dataclasses are.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.unit.house.tree import ROOT, SOURCE, name_of, parsed, python_files

FILE_LINES = 500
FUNCTION_LINES = 80
CLASS_LINES = 300
COLLABORATORS = 5
APP_LINES = 200

# fmt: off
PLAIN = frozenset({
    "str", "int", "float", "bool", "bytes", "bytearray", "Path", "None", "Literal", "Callable",
    "Awaitable", "Sequence", "Mapping", "Iterable", "dict", "list", "tuple", "set", "frozenset",
    "Any", "Final",
})
# fmt: on
Function = ast.FunctionDef | ast.AsyncFunctionDef


def length(node: ast.AST) -> int:
    """Lines from the first to the last of a definition, decorators not counted."""
    assert isinstance(node, ast.stmt)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def nodes(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[Path, ast.AST]]:
    """Every node of a kind in every file."""
    for path in python_files():
        for node in ast.walk(parsed(path)):
            if isinstance(node, kind):
                yield path, node


def is_plain(annotation: ast.expr | None) -> bool:
    """True when the annotation names plain values only; what a callable takes is its affair."""
    match annotation:
        case ast.Constant(value=None):
            return True
        case ast.Constant(value=str(text)):
            return is_plain(ast.parse(text, mode="eval").body)
        case ast.Name(id=name):
            return name in PLAIN
        case ast.Attribute(attr=name):
            return name in PLAIN
        case ast.BinOp(left=left, right=right):
            return is_plain(left) and is_plain(right)
        case ast.Subscript(value=ast.Name(id="Literal" | "Callable")):
            return True
        case ast.Subscript(value=outer, slice=inner):
            return is_plain(outer) and is_plain(inner)
        case ast.Tuple(elts=parts):
            return all(isinstance(part, ast.Constant) or is_plain(part) for part in parts)
        case _:
            return False


def is_dataclass(node: ast.ClassDef) -> bool:
    """True for classes whose constructor `dataclass` writes."""
    names = (part.func if isinstance(part, ast.Call) else part for part in node.decorator_list)
    return any(ast.unparse(name).split(".")[-1] == "dataclass" for name in names)


def collaborators(node: ast.ClassDef) -> list[str]:
    """Names of the constructor's parameters that are not plain values."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = item.args
            given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs][1:]
            return [given_one.arg for given_one in given if not is_plain(given_one.annotation)]
    if not is_dataclass(node):
        return []
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    return [ast.unparse(field.target) for field in fields if not is_plain(field.annotation)]


def test_files() -> None:
    lines = {name_of(path): path.read_bytes().count(b"\n") for path in python_files()}
    assert lines
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_the_composition_root_is_small() -> None:
    app = SOURCE / "app.py"
    assert app.read_bytes().count(b"\n") <= APP_LINES


def test_functions() -> None:
    long = {
        f"{name_of(path)}:{node.name}": length(node)
        for path, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(node, Function) and length(node) > FUNCTION_LINES
    }
    assert long == {}


def test_classes() -> None:
    long = {
        f"{name_of(path)}:{node.name}": length(node)
        for path, node in nodes(ast.ClassDef)
        if isinstance(node, ast.ClassDef) and length(node) > CLASS_LINES
    }
    assert long == {}


def test_constructors() -> None:
    crowded = {
        f"{name_of(path)}:{node.name}": collaborators(node)
        for path, node in nodes(ast.ClassDef)
        if isinstance(node, ast.ClassDef) and len(collaborators(node)) > COLLABORATORS
    }
    assert crowded == {}


def test_the_counter_itself() -> None:
    source = """
class Crowd:
    def __init__(self, a: Clock, b: "Store | None", c: int, d: Callable[[X], Y], *, e: Path | None,
                 f: dict[str, Thing], g: Literal["x"], h: tuple[int, ...]) -> None: ...

@dataclass(frozen=True)
class Data:
    clock: Clock
    name: str
"""
    crowd, data = ast.parse(source).body
    assert isinstance(crowd, ast.ClassDef)
    assert isinstance(data, ast.ClassDef)
    assert collaborators(crowd) == ["a", "b", "f"]
    assert collaborators(data) == ["clock"]
    assert ROOT.joinpath("pyproject.toml").is_file()
