"""A schema whose keywords hold values of the wrong kind is refused, never an accident."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.constraints import check
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, JsonOutput, Prompt, Tool, ToolChoice

KEYWORDS = [
    "type",
    "properties",
    "required",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
    "anyOf",
    "oneOf",
    "allOf",
    "const",
    "enum",
    "$ref",
    "$defs",
    "patternProperties",
    "additionalProperties",
    "not",
    "if",
    "then",
    "propertyNames",
    "uniqueItems",
    "contains",
    "minContains",
    "dependentRequired",
    "minProperties",
    "maxProperties",
    "default",
    "examples",
    "$id",
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 10**30, "", "object", "array", "[", "#", "#/$defs/a"),
    *([], [1], ["a"], [["a"]], [{}], [{"type": "x"}], [None], ["object", "array"]),
    *({}, {"a": 1}, {"a": []}, {"a": {"type": "object"}}),
]
SCHEMAS = st.dictionaries(st.sampled_from(KEYWORDS), st.sampled_from(VALUES), max_size=5)


def judge(schema: dict[str, Any]) -> None:
    requests = (
        GenerationRequest("m", Prompt(text="x"), output=JsonOutput(schema)),
        GenerationRequest(
            "m",
            Prompt(tools=(Tool("f", "", schema, strict=True),)),
            tool_choice=ToolChoice("required"),
        ),
    )
    for request in requests:
        with contextlib.suppress(LmxError):
            check(request, output="o", tools="tools")


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_no_value_of_a_keyword_is_an_accident(keyword: str) -> None:
    for value in VALUES:
        judge({keyword: value})
        judge({"type": "object", "properties": {"a": {keyword: value}}, "required": ["a"]})


@given(SCHEMAS)
def test_nor_is_any_mixture(schema: dict[str, Any]) -> None:
    judge({"type": "object", **schema})


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"required": [["a"]], "properties": {}}, "o.required"),
        ({"properties": {"a": {"format": []}}}, "o.properties.a.format"),
        ({"minItems": None}, "o.minItems"),
    ],
)
def test_the_place_is_named(schema: dict[str, Any], where: str) -> None:
    request = GenerationRequest("m", Prompt(text="x"), output=JsonOutput(schema))
    with pytest.raises(LmxError) as refused:
        check(request, output="o", tools="tools")
    assert (refused.value.kind, refused.value.param) == (ErrorKind.INVALID_REQUEST, where)
