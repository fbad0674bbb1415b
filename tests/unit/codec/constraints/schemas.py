"""Schemas of every keyword that is enforced, by name; any value of one is small."""

from typing import Any

TREE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer", "minimum": 0, "maximum": 9},
        "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1},
    },
    "required": ["value"],
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "types": {"type": ["integer", "null"], "minimum": 1, "maximum": 30},
    "boolean": {"type": "boolean"},
    "const": {"const": {"kind": "é\n", "list": [1, None, True]}},
    "enum": {"enum": ["red", 'a"b\\', 3, None, [1, 2], {"deep": "yes"}]},
    "length": {"type": "string", "minLength": 2, "maxLength": 5},
    "pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d{2,3}$"},
    "pattern within": {"type": "string", "pattern": r"\w@\d", "maxLength": 12},
    "date-time": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "email": {"type": "string", "format": "email", "maxLength": 14},
    "uri": {"type": "string", "format": "uri", "maxLength": 20},
    "range": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2},
    "multiple": {"type": "integer", "minimum": 10, "maximum": 100, "multipleOf": 7},
    "object": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, 2]}, "c": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "map": {
        "type": "object",
        "additionalProperties": {"type": "boolean"},
        "minProperties": 1,
        "maxProperties": 2,
    },
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^n[0-9]$": {"type": "integer", "minimum": 0, "maximum": 9}},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "any key": {"type": "object", "patternProperties": {"^.*$": {}}, "maxProperties": 0},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "tuple": {"prefixItems": [{"const": "x"}, {"type": "null"}], "items": False, "type": "array"},
    "anyOf": {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]},
    "oneOf": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "n": {"enum": [1, 2]}},
                "required": ["kind"],
                "additionalProperties": False,
            }
            for kind in ("circle", "square")
        ]
    },
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"enum": [1, 2, 3]}}, "required": ["a"]},
            {"properties": {"a": {"enum": [2, 3, 4]}, "b": {"const": "z"}}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
    "$ref": {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
    "nested": {
        "type": "object",
        "properties": {
            "who": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}}},
            "when": {"type": "string", "format": "date"},
        },
        "required": ["who", "when"],
    },
    "notes": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Notes only",
        "description": "none of them says anything",
        "type": "integer",
        "format": "int32",
        "default": 7,
        "enum": [7, 8],
        "x-order": 3,
    },
}
