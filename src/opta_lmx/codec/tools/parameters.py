"""What the JSON Schema of a tool's arguments says about them, one by one."""

from typing import Any, cast

from opta_lmx.codec.tools.values import json_types, referred

_MOST_PARTS = 64
"""References and members of `allOf` that are followed, so that none can double without end."""

_DEFINITIONS = ("$defs", "definitions")
_NAMING = ("properties", "additionalProperties", "patternProperties")
_BINDING = frozenset(("$ref", "allOf", "anyOf", "oneOf", "const", "enum", "not", "if"))


class ArgumentTypes:
    """The JSON types that a call's arguments may have.

    Args:
        parameters: the tool's schema, of any shape.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._root = flattened(parameters)
        properties = self._root.get("properties")
        self._properties = cast("dict[str, Any]", properties if _is_map(properties) else {})
        self._known: dict[str, frozenset[str]] = {}
        self._unlisted: frozenset[str] | None = None

    def of(self, name: str) -> frozenset[str]:
        """Return the types the schema allows for `name`; empty when it does not say."""
        if name in self._properties:
            if name not in self._known:
                self._known[name] = json_types(self._properties[name], self._root)
            return self._known[name]
        if self._unlisted is None:
            self._unlisted = self._of_unlisted()
        return self._unlisted

    def _of_unlisted(self) -> frozenset[str]:
        """Patterns of names are not matched here: what any of them allows, any name may be."""
        patterns = self._root.get("patternProperties")
        said = list(cast("dict[str, Any]", patterns).values()) if _is_map(patterns) else []
        said.append(self._root.get("additionalProperties", True))
        kinds = [json_types(schema, self._root) for schema in said if schema is not False]
        return frozenset[str]().union(*kinds) if all(kinds) else frozenset()


def flattened(root: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with a `$ref` or `allOf` at its root written out.

    What cannot be said by one plain list of properties is left as it stands.

    Args:
        root: a schema, of any shape.
    """
    if "$ref" not in root and "allOf" not in root:
        return root
    return _Flattening(root).take(root) or root


class _Flattening:
    """Writes out one schema; `None` for what cannot be."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = _MOST_PARTS

    def take(self, node: object) -> dict[str, Any] | None:
        self._left -= 1
        if not _is_map(node) or self._left < 0:
            return None
        said = cast("dict[str, Any]", node)
        parts: list[object] = []
        if "$ref" in said:
            reference = said["$ref"]
            parts.append(referred(reference, self._root) if isinstance(reference, str) else None)
        members = said.get("allOf", [])
        parts += cast("list[object]", members) if isinstance(members, list) else [None]
        made: dict[str, Any] | None = {k: v for k, v in said.items() if k not in ("$ref", "allOf")}
        for part in parts:
            one = {} if part is True else self.take(part)
            made = _both(made, one) if made is not None and one is not None else None
        return made


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """One description for what two say of the same object; None where there is none."""
    other = {key: value for key, value in other.items() if key not in _DEFINITIONS}
    if any(other.get(key, value) != value for key, value in one.items() if key in _BINDING):
        return None
    if _tells_apart(one, other) or _tells_apart(other, one):
        return None
    made = {**other, **one}
    first, second = one.get("properties", {}), other.get("properties", {})
    if not _is_map(first) or not _is_map(second):
        return None
    if first or second:
        shared = {name: {"allOf": [first[name], second[name]]} for name in first if name in second}
        made["properties"] = {**first, **second, **shared}
    names = [*_names(one), *_names(other)]
    if names:
        made["required"] = list(dict.fromkeys(names))
    for key, choose in (("minProperties", max), ("maxProperties", min)):
        if key in one and key in other:
            if not isinstance(one[key], int) or not isinstance(other[key], int):
                return None
            made[key] = choose(one[key], other[key])
    return made


def _tells_apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether `one` speaks of all names that it does not list, some of which `other` lists."""
    closed = one.get("additionalProperties", True) not in (True, {}) or "patternProperties" in one
    return closed and any(key in other for key in _NAMING)


def _names(schema: dict[str, Any]) -> list[str]:
    names = schema.get("required")
    listed = cast("list[object]", names) if isinstance(names, list) else []
    return [name for name in listed if isinstance(name, str)]


def _is_map(value: object) -> bool:
    return isinstance(value, dict)
