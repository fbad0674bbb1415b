"""Whether a schema allows any finite value: one that must contain itself allows none."""

from typing import Any, cast
from urllib.parse import unquote

_MOST_PASSES = 40
"""Passes over the references; schemas that people write need two."""


def is_finite(root: dict[str, Any] | bool) -> bool:
    """Return False when every value of the schema would have to be infinitely deep.

    Only requirements that run through `$ref` are looked at; contradictions between keywords
    are the grammar library's to find. References that lead nowhere count as finite: they are
    refused elsewhere.
    """
    reader = _Reader(root)
    for _ in range(_MOST_PASSES):
        known = len(reader.finite)
        if reader.fits(root):
            return True
        if len(reader.finite) == known:
            return False
    return False


class _Reader:
    """Finds what is finite given the references known to be so; `finite` grows pass by pass."""

    def __init__(self, root: dict[str, Any] | bool) -> None:
        self.finite: set[str] = set()
        self._root = root
        self._open: set[str] = set()
        self._tried: set[str] = set()

    def fits(self, schema: object) -> bool:
        """Whether some finite value is known to fit."""
        self._tried.clear()
        return self._fits(schema)

    def _fits(self, schema: object) -> bool:
        if not isinstance(schema, dict):
            return schema is not False
        node = cast("dict[str, Any]", schema)
        if "$ref" in node and not self._reference(str(node["$ref"])):
            return False
        if any(not self._fits(member) for member in node.get("allOf", ())):
            return False
        for key in ("anyOf", "oneOf"):
            if key in node and not any(self._fits(member) for member in node[key]):
                return False
        if "const" in node or "enum" in node:
            return True
        types: Any = node.get("type", [])
        names = cast("list[str]", types if isinstance(types, list) else [types])
        if not names or any(name not in ("object", "array") for name in names):
            return True
        return ("object" in names and self._object(node)) or (
            "array" in names and self._array(node)
        )

    def _object(self, node: dict[str, Any]) -> bool:
        properties = node.get("properties", {})
        required = node.get("required", ())
        return all(self._fits(properties[name]) for name in required if name in properties)

    def _array(self, node: dict[str, Any]) -> bool:
        least = node.get("minItems", 0)
        first = node.get("prefixItems", [])
        if any(not self._fits(member) for member in first[:least]):
            return False
        return least <= len(first) or self._fits(node.get("items", True))

    def _reference(self, reference: str) -> bool:
        if reference in self.finite:
            return True
        if reference in self._open or reference in self._tried:
            return False
        target = resolve(self._root, reference)
        if target is None:
            return True
        self._open.add(reference)
        found = self._fits(target)
        self._open.discard(reference)
        (self.finite if found else self._tried).add(reference)
        return found


def resolve(root: object, reference: str) -> object | None:
    """Return what a reference of JSON-pointer form points at; None where it leads nowhere."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    value = root
    for part in reference[2:].split("/"):
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = cast("dict[str, object]", value).get(name)
        elif (
            isinstance(value, list)
            and name.isdigit()
            and int(name) < len(cast("list[object]", value))
        ):
            value = cast("list[object]", value)[int(name)]
        else:
            return None
    return value
