"""What a tool's schema says of its arguments is read from schemas of any shape, sound or not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.tools.parameters import ArgumentTypes, flattened
from tests.unit.codec.constraints.test_wrong_shapes import KEYWORDS, VALUES

STRING, NUMBER = {"type": "string"}, {"type": "number"}
LISTED = {"type": "object", "properties": {"a": STRING, "n": NUMBER}}


@pytest.mark.parametrize(
    ("schema", "name", "types"),
    [
        (LISTED, "a", {"string"}),
        (LISTED, "other", set()),
        ({"$ref": "#/$defs/x", "$defs": {"x": LISTED}}, "a", {"string"}),
        ({"allOf": [{"properties": {"b": STRING}}, LISTED]}, "n", {"number"}),
        ({"$ref": "#/$defs/x"}, "a", set()),
        ({"$ref": "#", "properties": {"a": STRING}}, "a", {"string"}),
        ({"additionalProperties": STRING}, "any", {"string"}),
        ({**LISTED, "additionalProperties": NUMBER}, "any", {"number"}),
        ({"patternProperties": {"^a": STRING}}, "ab", set()),
        ({"patternProperties": {"^a": STRING}, "additionalProperties": False}, "a", {"string"}),
        (
            {"patternProperties": {"^a": STRING}, "additionalProperties": NUMBER},
            "ab",
            {"string", "number"},
        ),
    ],
)
def test_the_types_of_an_argument(schema: dict[str, Any], name: str, types: set[str]) -> None:
    assert ArgumentTypes(schema).of(name) == types


def test_what_one_list_cannot_say_is_left() -> None:
    for schema in (
        {"allOf": [{**LISTED, "additionalProperties": STRING}, {"properties": {"b": STRING}}]},
        {"allOf": [{"anyOf": [LISTED]}, {"anyOf": [{}]}]},
    ):
        assert flattened(schema) is schema


def test_references_cannot_double_without_end() -> None:
    doubling: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)
    }
    schema = {"$ref": "#/$defs/d0", "$defs": doubling}
    assert flattened(schema) is schema


_SHAPES = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.dictionaries(
        st.sampled_from([*KEYWORDS, "a"]), st.one_of(inner, st.lists(inner, max_size=2)), max_size=4
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), _SHAPES, max_size=5))
def test_no_shape_is_an_accident(schema: dict[str, Any]) -> None:
    types = ArgumentTypes(schema)
    assert all(isinstance(kind, str) for name in ("a", "zz") for kind in types.of(name))
