"""Lists in request bodies: the first wrong item refuses the whole.

Every fault has its price: a body of a million wrong items held up the whole server for seconds.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, cast

import pytest

import opta_lmx.api
from opta_lmx.api.fields import WireModel

FEW = 256


def models() -> list[type[WireModel]]:
    """Every wire model of every dialect."""
    for module in pkgutil.walk_packages(opta_lmx.api.__path__, "opta_lmx.api."):
        importlib.import_module(module.name)
    found: list[type[WireModel]] = []
    waiting = [WireModel]
    while waiting:
        kinds = waiting.pop().__subclasses__()
        found += kinds
        waiting += kinds
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def lists_in(schema: object) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        node = cast("dict[str, Any]", schema)
        if node.get("type") == "list":
            yield node
        for name, value in node.items():
            if name != "json_schema_input_schema":  # documents, checks nothing
                yield from lists_in(value)
    elif isinstance(schema, list | tuple):
        for value in cast("list[object]", schema):
            yield from lists_in(value)


@pytest.mark.parametrize("kind", models(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_list_fails_at_its_first_fault(kind: type[WireModel]) -> None:
    for node in lists_in(kind.__pydantic_core_schema__):
        unchecked = node.get("items_schema", {"type": "any"})["type"] == "any"
        few = node.get("max_length") is not None and node["max_length"] <= FEW
        assert unchecked or few or node.get("fail_fast"), node


def test_there_are_lists_to_look_at() -> None:
    found = [node for kind in models() for node in lists_in(kind.__pydantic_core_schema__)]
    assert len(found) > 10
