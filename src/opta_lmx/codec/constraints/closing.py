"""Closes objects that list their properties: a model that may add keys may never stop.

What fits the closed schema fits the open one too, so nothing that is generated is wrong.
"""

from typing import Any, cast

_UNIONS = ("anyOf", "oneOf")
_MERGING = ("allOf", *_UNIONS, "$ref")
_OWN_KEYS = ("additionalProperties", "patternProperties", "minProperties", *_MERGING)
_DEFINITIONS = ("$defs", "definitions")


def close_objects(root: dict[str, Any] | bool) -> None:
    """Set `additionalProperties` to false, in place, where an object lists its properties.

    Left open are objects that are merged with another description of the same value, which
    may know further keys.
    """
    if not _merges_references(root):
        _close(root, merged=False)


def _close(schema: object, merged: bool) -> None:
    if not isinstance(schema, dict):
        return
    node = cast("dict[str, Any]", schema)
    combined = merged or _is_combined(node)
    closable = "properties" in node and not any(key in node for key in _OWN_KEYS)
    required = node.get("required", [])
    known = (
        isinstance(required, list)
        and set(cast("list[str]", required)) <= node.get("properties", {}).keys()
    )
    if closable and known and not merged:
        node["additionalProperties"] = False
    for key in _UNIONS:
        for member in node.get(key, ()):
            _close(member, combined)
    for member in node.get("allOf", ()):
        _close(member, merged or _is_combined(node) or len(node["allOf"]) > 1)
    for child in _parts(node):
        _close(child, merged=False)


def _is_combined(node: dict[str, Any]) -> bool:
    """Whether more than one keyword describes the same value."""
    said = node.keys() - {*_DEFINITIONS, "$id", "id", "$anchor"}
    return any(key in node for key in _MERGING) and len(said) > 1


def _merges_references(schema: object, merged: bool = False) -> bool:
    """Whether the target of some reference is merged with what stands beside it."""
    if not isinstance(schema, dict):
        return False
    node = cast("dict[str, Any]", schema)
    merged = merged or _is_combined(node)
    if "$ref" in node and merged:
        return True
    several = merged or len(node.get("allOf", ())) > 1
    unions = [member for key in _UNIONS for member in node.get(key, ())]
    return (
        any(_merges_references(member, merged) for member in unions)
        or any(_merges_references(member, several) for member in node.get("allOf", ()))
        or any(_merges_references(child) for child in _parts(node))
    )


def _parts(node: dict[str, Any]) -> list[object]:
    """Schemas of other values: members, items, definitions."""
    found: list[object] = [node[key] for key in ("additionalProperties", "items") if key in node]
    found += node.get("prefixItems", [])
    for key in ("properties", "patternProperties", *_DEFINITIONS):
        found += node.get(key, {}).values()
    return found
