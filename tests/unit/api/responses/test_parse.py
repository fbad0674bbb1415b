"""Requests: every field has a meaning or is refused by name."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.responses.parse import is_strict, parse_create
from opta_lmx.api.responses.resource import blank
from opta_lmx.api.responses.wire import CreateResponse, FunctionTool
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import JsonOutput, ToolChoice
from tests.support.openresponses import valid

Json = dict[str, Any]

CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "object", "properties": {}, "additionalProperties": False}},
    "required": ["a"],
    "additionalProperties": False,
}


def parsed(**fields: Any) -> Any:
    return parse_create({"model": "m", "input": "hi", **fields})


def tool(**fields: Any) -> Json:
    return {"type": "function", "name": "f", **fields}


@pytest.mark.parametrize(
    ("fields", "strict"),
    [
        ({}, False),
        ({"parameters": None}, False),
        ({"parameters": {"type": "object"}}, False),
        ({"parameters": CLOSED}, True),
        ({"parameters": CLOSED, "strict": False}, False),
        ({"parameters": CLOSED, "strict": None}, True),
        ({"parameters": {**CLOSED, "required": []}}, False),
        ({"parameters": {**CLOSED, "additionalProperties": True}}, False),
        ({"parameters": {"type": "object"}, "strict": True}, True),
    ],
    ids=str,
)
def test_arguments_are_held_to_schemas_that_allow_it(fields: Json, strict: bool) -> None:
    draft = parsed(tools=[tool(**fields)])
    assert draft.request.prompt.tools[0].strict is strict
    assert blank(draft, "resp_1", 1)["tools"][0]["strict"] is strict


def test_choices_of_tools() -> None:
    tools = [tool(), tool(name="g")]
    for said, meant, left in (
        (None, ToolChoice(), ["f", "g"]),
        ("auto", ToolChoice(), ["f", "g"]),
        ("none", ToolChoice("none"), []),
        ("required", ToolChoice("required"), ["f", "g"]),
        ({"type": "function", "name": "g"}, ToolChoice("required", "g"), ["f", "g"]),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "g"}],
            },
            ToolChoice("required"),
            ["g"],
        ),
    ):
        request = parsed(tools=tools, tool_choice=said).request
        assert request.tool_choice == meant
        assert [one.name for one in request.prompt.tools] == left


def test_forms_of_the_answer() -> None:
    def output(**form: Any) -> JsonOutput | None:
        return parsed(text={"format": form}).request.output

    assert output(type="text") is None
    assert output(type="json_object") == JsonOutput()
    assert output(type="json_schema", name="n", schema=CLOSED) == JsonOutput(CLOSED)
    assert parsed(text=None).request.output is None


def test_effort_reaches_the_template() -> None:
    assert parsed().request.prompt.template_kwargs == {}
    assert parsed(reasoning={"effort": "high"}).request.prompt.template_kwargs == {
        "reasoning_effort": "high"
    }
    off = parsed(reasoning={"effort": "none"}).request.prompt.template_kwargs
    assert off == {"reasoning_effort": "none", "enable_thinking": False}


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 3}, 3),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, 2),
    ],
    ids=str,
)
def test_log_probabilities_are_made_when_asked_for(fields: Json, logprobs: int | None) -> None:
    assert parsed(**fields).request.top_logprobs == logprobs


def test_a_schema_that_is_none_is_refused_not_stumbled_over() -> None:
    with pytest.raises(LmxError) as caught:
        parsed(tools=[tool(parameters={"type": "array"})])
    assert caught.value.param == "tools.0.parameters"
    for odd in ({"required": [["a"]]}, {"required": 5}, {"properties": 5}, {"required": [1]}):
        schema = {"type": "object", "additionalProperties": False, **odd}
        assert not is_strict(FunctionTool.model_validate(tool(parameters=schema)))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats(-3, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
names = st.sampled_from(sorted({*CreateResponse.model_fields, "x"} - {"model"}))


@given(st.dictionaries(names, values, max_size=4))
def test_whatever_comes_is_a_valid_response_or_a_refusal_by_name(fields: Json) -> None:
    with contextlib.suppress(LmxError):
        valid("ResponseResource", blank(parsed(**fields), "resp_1", 1))
