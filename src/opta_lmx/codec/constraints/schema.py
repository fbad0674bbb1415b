"""Prepares a JSON Schema for the grammar library, or says which keyword cannot be held.

The library refuses most of what it cannot do. Here is done what it cannot say itself: where in
the schema the fault lies, that nothing finite fits, and that the size is beyond reason.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn, cast

import msgspec

from opta_lmx.codec.constraints.closing import close_objects
from opta_lmx.codec.constraints.finite import is_finite
from opta_lmx.codec.constraints.patterns import LONGEST, translate
from opta_lmx.core.errors import invalid, unsupported

Schema = dict[str, Any] | bool

MOST_BYTES = 256 * 1024
MOST_NODES = 5_000
MOST_MEMBERS = 1_000
"""Names in one object: the time to compile them grows with their square."""
MOST_VALUES = 5_000
"""Members of all `enum` together."""
DEEPEST = 64
MOST_MULTIPLES = 5_000
"""All `multipleOf` of a schema together, decimal points aside: a grammar counts up to each."""
LARGEST_COUNT = 100_000
"""The highest bound for lengths and counts; above it an upper bound says nothing."""

_IN_ONE = ("additionalProperties", "items", "additionalItems")
_IN_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMES = ("properties", "patternProperties")
_IN_MAP = (*_NAMES, "$defs", "definitions")
_NOTES = frozenset(
    (
        "$schema",
        "$comment",
        "$vocabulary",
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentMediaType",
        "contentEncoding",
        "contentSchema",
        "nullable",
        "discriminator",
        "xml",
        "externalDocs",
        "x-guidance",
    )
)
"""Keywords that say nothing about which values fit, or that are not of JSON Schema."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "not": (False,),
    "contains": (True, {}),
    "uniqueItems": (False,),
    "propertyNames": (True, {}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "$dynamicRef": (),
    "$recursiveRef": (),
}
"""Keywords that cannot be held, each with the values that ask for nothing."""
_UPPER = ("maxLength", "maxItems", "maxProperties")
_LOWER = ("minLength", "minItems", "minProperties")
_TYPES = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))
_HELD_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
)
_URI = (
    r"^[A-Za-z][A-Za-z0-9+.-]{0,15}:"
    r"(//[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?(:[1-9][0-9]{0,4})?(/[\w.~!$&'()*+,;=:@-]*)*"
    r"|[\w.~!$&'()*+,;=:@-]+(/[\w.~!$&'()*+,;=:@-]*)*)"
    r"(\?[\w.~!$&'()*+,;=:@/?-]*)?(#[\w.~!$&'()*+,;=:@/?-]*)?$"
)
"""The commoner URIs; versions of the library differ in whether they know the format."""
_OTHER_FORMATS = frozenset(
    (
        "idn-email",
        "idn-hostname",
        "uri-reference",
        "iri",
        "iri-reference",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    )
)


def prepare(schema: Schema, param: str) -> Schema:
    """Return a schema of the same meaning that the grammar library can take.

    Unknown keywords and unknown formats are notes, as the standard has it, and are dropped or
    left alone. A `minProperties` that keys not listed would have to reach is refused: a grammar
    cannot see that a key comes twice.

    Args:
        schema: as the caller wrote it.
        param: where it stands in the request.

    Raises:
        LmxError: INVALID_REQUEST where it is no schema, is too large, or nothing fits it;
            UNSUPPORTED_PARAMETER where it asks what cannot be held, `param` naming the keyword.
    """
    _bounded(schema, param)
    prepared = _Preparation().take(schema, param)
    try:
        if not is_finite(prepared):
            raise invalid("No finite value can fit this schema.", param=param)
        close_objects(prepared)
    except RecursionError:
        raise invalid("The schema's references go too deep.", param=param) from None
    return prepared


def _bounded(schema: Schema, param: str) -> None:
    """Refuse by plain size before anything walks the schema recursively."""
    waiting: list[tuple[object, int]] = [(schema, 0)]
    nodes = values = 0
    while waiting:
        value, depth = waiting.pop()
        nodes += 1
        if depth > DEEPEST * 2:
            raise invalid("The schema is nested too deeply.", param=param)
        if isinstance(value, dict):
            waiting += [(child, depth + 1) for child in cast("dict[str, object]", value).values()]
        elif isinstance(value, list):
            children = cast("list[object]", value)
            plain = sum(not isinstance(child, dict | list) for child in children)
            values += plain
            waiting += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
        if nodes > MOST_NODES * 4 or values > MOST_VALUES:
            raise invalid("The schema is too large.", param=param)
    if len(msgspec.json.encode(schema)) > MOST_BYTES:
        raise invalid("The schema is too large.", param=param)


class _Preparation:
    """One walk over a schema."""

    def __init__(self) -> None:
        self._nodes = self._multiples = 0
        self._common = 1
        self._combines = False

    def take(self, schema: object, path: str, depth: int = 0) -> Schema:
        """Return the prepared form of the schema at `path`."""
        self._nodes += 1
        if self._nodes > MOST_NODES or depth > DEEPEST:
            raise invalid("The schema is too large.", param=path)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise invalid("A schema must be an object or a boolean.", param=path)
        node = {
            key: value
            for key, value in cast("dict[str, Any]", schema).items()
            if key not in _NOTES and not key.startswith("x-")
        }
        _check_shapes(node, path)
        _drop_neutral(node, path)
        _check_values(node, path)
        _tuple_items(node)
        self._children(node, path, depth + 1)
        _limit_counts(node, path)
        self._limit_multiples(node, path)
        return node

    def _limit_multiples(self, node: dict[str, Any], path: str) -> None:
        """Bound what `multipleOf` costs: as many states as there are remainders.

        Schemas that must hold together have those of the least common multiple.
        """
        self._combines = self._combines or "allOf" in node or "$ref" in node
        step = node.get("multipleOf")
        digits = Decimal(str(step)).as_tuple() if type(step) in (int, float) else None
        if digits is not None and isinstance(digits.exponent, int):  # a finite number
            scale = max(0, digits.exponent)
            whole = int("".join(map(str, digits.digits))) * 10**scale
            self._multiples += whole
            self._common = math.lcm(self._common, whole or 1)
        if max(self._multiples, self._common if self._combines else 0) > MOST_MULTIPLES:
            raise unsupported(
                f"All 'multipleOf' together may come to {MOST_MULTIPLES}, decimal points aside.",
                f"{path}.multipleOf" if step is not None else path,
            )

    def _children(self, node: dict[str, Any], path: str, depth: int) -> None:
        for key in _IN_ONE:
            if key in node:
                node[key] = self.take(node[key], f"{path}.{key}", depth)
        for key in _IN_LIST:
            if key in node:
                here = f"{path}.{key}"
                members = _checked_list(node[key], here)
                node[key] = [
                    self.take(member, f"{here}.{index}", depth)
                    for index, member in enumerate(members)
                ]
        for key in _IN_MAP:
            if key in node:
                self._map(node, key, f"{path}.{key}", depth)

    def _map(self, node: dict[str, Any], key: str, path: str, depth: int) -> None:
        members = node[key]
        if not isinstance(members, dict):
            raise invalid(f"'{key}' must be an object.", param=path)
        if key in _NAMES and len(cast("dict[str, object]", members)) > MOST_MEMBERS:
            raise invalid(f"'{key}' may hold at most {MOST_MEMBERS} names.", param=path)
        node[key] = {
            (_pattern(name, path) if key == "patternProperties" else name): self.take(
                member, f"{path}.{name}", depth
            )
            for name, member in cast("dict[str, object]", members).items()
        }


def _check_shapes(node: dict[str, Any], path: str) -> None:
    """Refuse keywords whose value has not even the right type, before anybody reads them."""
    required = node.get("required", [])
    names = cast("list[object]", required) if isinstance(required, list) else [None]
    if not all(isinstance(name, str) for name in names):
        raise invalid("'required' must be a list of names.", param=f"{path}.required")
    for key in ("format", "pattern", "$ref"):
        if not isinstance(node.get(key, ""), str):
            raise invalid(f"'{key}' must be a string.", param=f"{path}.{key}")
    for key in (*_UPPER, *_LOWER, "minContains", "maxContains"):
        value = node.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(f"'{key}' must be a whole number of at least 0.", param=f"{path}.{key}")


def _drop_neutral(node: dict[str, Any], path: str) -> None:
    """Leave out keywords that ask for nothing; refuse those that ask the impossible."""
    if "if" in node and ("then" in node or "else" in node):
        _refuse("if", path)
    if node.get("minContains") == 0 and "maxContains" not in node:
        node.pop("contains", None)
    for key in ("if", "then", "else", *(("minContains", "maxContains") * ("contains" not in node))):
        node.pop(key, None)
    if "contains" in node and node["contains"] in (True, {}) and "maxContains" not in node:
        # Anything at all, at least so often: a matter of length.
        at_least = max(node.pop("minContains", 1), node.get("minItems", 0))
        del node["contains"]
        node["minItems"] = at_least
    for key, neutral in _NEUTRAL.items():
        if key in node:
            # `False == 0` in Python, but not in JSON.
            if any(node[key] == value and type(node[key]) is type(value) for value in neutral):
                del node[key]
            else:
                _refuse(key, path)


def _check_values(node: dict[str, Any], path: str) -> None:
    for name in _type_names(node):
        if not isinstance(name, str) or name not in _TYPES:
            raise invalid("This is no type of JSON.", param=f"{path}.type")
    if "enum" in node:
        _checked_list(node["enum"], f"{path}.enum")
    if "pattern" in node:
        node["pattern"] = _pattern(node["pattern"], f"{path}.pattern")
    if not node.get("$ref", "#").startswith("#"):
        raise unsupported("Only references within the schema can be followed.", f"{path}.$ref")
    format_ = node.get("format")
    if format_ in _OTHER_FORMATS:
        raise unsupported(f"The format '{format_}' cannot be enforced.", f"{path}.format")
    if format_ not in _HELD_FORMATS:
        node.pop("format", None)
    if format_ == "uri":
        members = node.get("allOf", [])
        node["allOf"] = [*_checked_list(members or [True], path), {"pattern": _URI}]


def _tuple_items(node: dict[str, Any]) -> None:
    """Drafts before 2020-12 wrote `prefixItems` as a list of `items`."""
    if isinstance(node.get("items"), list):
        node["prefixItems"] = node.pop("items")
        if "additionalItems" in node:
            node["items"] = node["additionalItems"]
    node.pop("additionalItems", None)


def _limit_counts(node: dict[str, Any], path: str) -> None:
    for key in (*_UPPER, *_LOWER):
        value = node.get(key, 0)
        if isinstance(value, float) and value.is_integer():
            node[key] = value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise invalid(f"'{key}' must be a whole number of at least 0.", param=f"{path}.{key}")
    for key in _UPPER:
        if node.get(key, 0) > LARGEST_COUNT:
            del node[key]
    for key in _LOWER:
        if node.get(key, 0) > LARGEST_COUNT:
            message = f"'{key}' may be at most {LARGEST_COUNT}."
            raise invalid(message, param=f"{path}.{key}")
    least = node.get("minProperties", 0)
    required = node.get("required")
    if isinstance(required, list) and len(cast("list[object]", required)) > MOST_MEMBERS:
        message = f"'required' may hold at most {MOST_MEMBERS} names."
        raise invalid(message, param=f"{path}.required")
    if least and isinstance(required, list) and len(set(cast("list[str]", required))) >= least:
        del node["minProperties"]
    elif least > 1:
        _refuse("minProperties", path)


def _pattern(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise invalid("A pattern must be a string.", param=path)
    if len(value) > LONGEST:
        raise invalid(f"A pattern may have at most {LONGEST} characters.", param=path)
    return translate(value)


def _checked_list(value: object, path: str) -> list[object]:
    if not isinstance(value, list) or not value:
        raise invalid("This must be a list that is not empty.", param=path)
    return cast("list[object]", value)


def _type_names(node: dict[str, Any]) -> list[object]:
    names = node.get("type", [])
    return cast("list[object]", names) if isinstance(names, list) else [names]


def _refuse(key: str, path: str) -> NoReturn:
    raise unsupported(f"The keyword '{key}' cannot be enforced here.", f"{path}.{key}")
