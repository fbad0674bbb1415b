"""Arguments in tags: every keyword of a tool's schema is held, or refused where that is promised.

What is let through is read back by the dialect's own parser and judged by a validator.
"""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.constraints import answer_grammar, check
from opta_lmx.codec.constraints.calls import FORMS
from opta_lmx.codec.deltas import collect
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, Prompt, Speech, Tool, ToolChoice
from tests.unit.codec.constraints.walking import accepts, walk

TAGGED = ("qwen3-coder", "seed", "glm", "minimax")
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
SHORT = {"type": "string", "minLength": 1, "maxLength": 2}
DIGITS = {"type": "string", "pattern": "^[0-9]{1,2}$"}
A = {"type": "object", "properties": {"a": DIGIT}, "required": ["a"]}


def written(dialect: str, tool: str, *pairs: tuple[str, str]) -> str:
    """A call as the dialect writes it."""
    match dialect:
        case "glm":
            members = "".join(
                f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"
                for key, value in pairs
            )
            return f"<tool_call>{tool}\n{members}</tool_call>"
        case "minimax":
            members = "".join(
                f'<parameter name="{key}">{value}</parameter>\n' for key, value in pairs
            )
            head = f'<minimax:tool_call>\n<invoke name="{tool}">\n'
            return f"{head}{members}</invoke>\n</minimax:tool_call>"
        case _:
            mark = {"seed": "seed:tool_call"}.get(dialect, "tool_call")
            members = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in pairs)
            return f"<{mark}>\n<function={tool}>\n{members}</function>\n</{mark}>"


def held(dialect: str, schema: dict[str, Any], *, strict: bool = False) -> str:
    """The grammar of one call of this tool, after the checks of admission."""
    request = GenerationRequest(
        model="m",
        prompt=Prompt(tools=(Tool("t", "", schema, strict=strict),)),
        tool_choice=ToolChoice("auto" if strict else "required"),
        parallel_tool_calls=False,
    )
    check(request, output="o", tools="tools")
    grammar = answer_grammar(request, Speech(dialect), thinking=False)
    assert grammar is not None
    return grammar


def arguments(dialect: str, schema: dict[str, Any], text: str) -> Any:
    """What the dialect's parser reads out of one call."""
    answer = Answer(AnswerStyle(speech=Speech(dialect), tools=(Tool("t", "", schema),)))
    deltas = answer.feed(text.encode())
    (call,) = collect(deltas + answer.finish("stop")[0]).calls
    return json.loads(call.arguments)


HELD: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    # name: schema, arguments that must be let through, arguments that must not (both JSON)
    "reference": (
        {"$ref": "#/$defs/args", "$defs": {"args": {**A, "additionalProperties": False}}},
        ('{"a": 3}',),
        ("{}", '{"a": "x"}', '{"a": 3, "b": 1}'),
    ),
    "reference to a reference": (
        {
            "$ref": "#/definitions/one",
            "definitions": {"one": {"$ref": "#/definitions/two"}, "two": A},
        },
        ('{"a": 3}',),
        ("{}", '{"a": 77}'),
    ),
    "all of one": ({"allOf": [A]}, ('{"a": 1}',), ("{}",)),
    "all of two": (
        {"allOf": [A, {"properties": {"b": SHORT}, "required": ["b"]}], "type": "object"},
        ('{"a": 1, "b": "x"}',),
        ('{"a": 1}', '{"b": "x"}', '{"a": 1, "b": "xyz"}'),
    ),
    "all of two that share a number": (
        {"allOf": [A, {"properties": {"a": {"enum": [1, 20]}}}]},
        ('{"a": 1}',),
        ('{"a": 2}', '{"a": 20}'),
    ),
    "beside a reference": (
        {"$ref": "#/$defs/a", "properties": {"b": SHORT}, "$defs": {"a": A}, "required": ["b"]},
        ('{"b": "x", "a": 1}',),
        ('{"a": 1}', '{"b": "x"}'),
    ),
    "reference to a property": (
        {"properties": {"a": DIGIT, "b": {"$ref": "#/properties/a"}}, "required": ["a", "b"]},
        ('{"a": 1, "b": 2}',),
        ('{"a": 1, "b": 22}', '{"a": 1, "b": "x"}'),
    ),
    "reference to a property that is a string": (
        {"properties": {"a": SHORT, "b": {"$ref": "#/properties/a"}}, "required": ["a", "b"]},
        ('{"a": "1", "b": "2"}',),
        ('{"a": "1", "b": "222"}',),
    ),
    "reference to the root": (
        {"properties": {"a": DIGIT, "more": {"$ref": "#"}}, "required": ["a"]},
        ('{"a": 1}', '{"a": 1, "more": {"a": 2}}'),
        ('{"a": 1, "more": {}}', '{"a": 1, "more": {"a": 22}}'),
    ),
    "reference into a member of all": (
        {
            "allOf": [{"properties": {"a": DIGIT}}],
            "properties": {"b": {"$ref": "#/allOf/0/properties/a"}},
            "required": ["b"],
        },
        ('{"b": 3}',),
        ('{"b": 33}', "{}"),
    ),
    "typed map": (
        {"additionalProperties": DIGIT},
        ("{}", '{"x": 1}', '{"x": 1, "New York": 2}'),
        ('{"x": "one"}', '{"x": 10}'),
    ),
    "map of strings": (
        {"additionalProperties": DIGITS},
        ('{"x": "1"}',),
        ('{"x": "one"}',),
    ),
    "typed beyond the list": (
        {**A, "additionalProperties": SHORT},
        ('{"a": 1}', '{"a": 1, "x": "12"}'),
        ('{"a": "x"}', '{"a": 1, "x": "123"}', '{"x": "12"}'),
    ),
    "open beyond the list": (
        {**A, "additionalProperties": True},
        ('{"a": 1, "x": "words"}', '{"a": 1, "x": 2}'),
        ('{"a": "x"}', '{"x": 2}'),
    ),
    "required beyond the list": (
        {"required": ["n", "a"], "properties": {"a": DIGIT}, "additionalProperties": DIGITS},
        ('{"a": 1, "n": "12"}',),
        ('{"a": 1}', '{"a": 1, "n": "x"}'),
    ),
    "patterns of names": (
        {
            "patternProperties": {"^n_": DIGIT, "^s_": DIGITS},
            "additionalProperties": False,
        },
        ("{}", '{"n_x": 1, "s_x": "12"}'),
        ('{"n_x": "x"}', '{"s_x": "one"}', '{"other": 1}'),
    ),
    "patterns of names for strings": (
        {"patternProperties": {"^s_": DIGITS}, "additionalProperties": False},
        ('{"s_x": "12"}',),
        ('{"s_x": "x"}', '{"x": "12"}'),
    ),
    "patterns and what is beyond them": (
        {"patternProperties": {"^n_": DIGIT}, "additionalProperties": {"type": "boolean"}},
        ('{"n_x": 1, "on": true}',),
        ('{"n_x": true}', '{"on": 1}'),
    ),
    "at least one of a map": (
        {"additionalProperties": DIGIT, "minProperties": 1},
        ('{"x": 1}', '{"x": 1, "y": 2}'),
        ("{}",),
    ),
    "at most so many of a map": (
        {"additionalProperties": DIGIT, "minProperties": 1, "maxProperties": 2},
        ('{"x": 1}', '{"x": 1, "y": 2}'),
        ("{}", '{"x": 1, "y": 2, "z": 3}'),
    ),
    "at most one of a list": (
        {"properties": {"a": DIGIT, "b": SHORT}, "maxProperties": 1},
        ("{}", '{"a": 1}', '{"b": "x"}'),
        ('{"a": 1, "b": "x"}',),
    ),
    "exactly one of a map": (
        {"additionalProperties": DIGIT, "minProperties": 1, "maxProperties": 1},
        ('{"x": 1}',),
        ("{}", '{"x": 1, "y": 2}'),
    ),
    "no more than are required": (
        {**A, "maxProperties": 1, "additionalProperties": True},
        ('{"a": 1}',),
        ('{"a": 1, "b": 2}',),
    ),
    "a fixed string of some length": (
        {"properties": {"a": {"enum": ["x", "yy"], "maxLength": 1}}, "required": ["a"]},
        ('{"a": "x"}',),
        ('{"a": "yy"}',),
    ),
    "what nothing fits may stay away": (
        {
            "properties": {
                "a": DIGIT,
                "b": {"type": "integer", "minimum": 5, "maximum": 4},
                "c": {"type": "string", "minLength": 5, "maxLength": 4},
                "d": {"enum": ["x"], "minLength": 2},
                "e": False,
            }
        },
        ("{}", '{"a": 1}'),
        ('{"b": 4}', '{"c": "xxxx"}', '{"d": "x"}', '{"e": 1}'),
    ),
    "notes on a string": (
        {"properties": {"a": {**SHORT, "unit": "cm", "minimum": 3}}, "required": ["a"]},
        ('{"a": "x"}',),
        ('{"a": "xyz"}',),
    ),
}


def call_of(dialect: str, text: str) -> str:
    pairs = [
        (key, value if isinstance(value, str) else json.dumps(value))
        for key, value in json.loads(text).items()
    ]
    return written(dialect, "t", *pairs)


@pytest.mark.parametrize("dialect", TAGGED)
@pytest.mark.parametrize("name", HELD)
def test_what_is_held(name: str, dialect: str) -> None:
    schema, good, bad = HELD[name]
    validator, grammar = jsonschema_rs.validator_for(schema), held(dialect, schema)
    mixed = name == "patterns of names"  # there a string stands in quotes, or it would be a number
    for text in good:
        assert validator.is_valid(json.loads(text))
        call = call_of(dialect, text)
        assert accepts(grammar, call.replace("12", '"12"') if mixed else call), text
    for text in bad:
        assert not accepts(grammar, call_of(dialect, text)), text
    walks = [found for seed in range(10) if (found := walk(grammar, seed, 600))]
    assert walks
    for found in walks:
        validator.validate(arguments(dialect, schema, found))


@pytest.mark.parametrize("name", HELD)
def test_strict_tools_are_held_alike(name: str) -> None:
    schema, good, bad = HELD[name]
    grammar = held("qwen3-coder", schema, strict=True)
    if name != "patterns of names":
        assert accepts(grammar, "Let me see.\n" + call_of("qwen3-coder", good[-1]))
    assert not any(accepts(grammar, call_of("qwen3-coder", text)) for text in bad)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # name: schema, the keyword that the answer names
    "anyOf": ({"anyOf": [A, {"required": ["b"], "properties": {"b": SHORT}}]}, "anyOf"),
    "oneOf": ({"oneOf": [A]}, "oneOf"),
    "const": ({"const": {"a": 1}}, "const"),
    "enum": ({"enum": [{"a": 1}, {}]}, "enum"),
    "anyOf behind a reference": (
        {"$ref": "#/$defs/u", "$defs": {"u": {"anyOf": [A, {"properties": {}}]}}},
        "anyOf",
    ),
    "a reference by number": ({"$ref": "#/prefixItems/0", "prefixItems": [A]}, "$ref"),
    "all of which one is closed": (
        {"allOf": [{**A, "additionalProperties": SHORT}, {"properties": {"b": DIGIT}}]},
        "allOf",
    ),
    "patterns beside a list": (
        {**A, "patternProperties": {"^x": DIGIT}},
        "patternProperties",
    ),
    "patterns beside a name that must come": (
        {"required": ["xa"], "patternProperties": {"^x": DIGIT}},
        "patternProperties",
    ),
    "a name that tags cannot hold": (
        {"properties": {" a": DIGIT}, "required": [" a"]},
        "required",
    ),
    "a string's format": ({"properties": {"a": {"type": "string", "format": "date"}}}, "format"),
    "a string that two describe": (
        {"allOf": [{"properties": {"a": SHORT}}, {"properties": {"a": DIGITS}}]},
        "allOf",
    ),
    "a pattern with an anchor inside": (
        {"properties": {"a": {"type": "string", "pattern": "a|^b"}}},
        "pattern",
    ),
    "a fixed string with a pattern": (
        {"properties": {"a": {"enum": ["x", "y"], "pattern": "x"}}},
        "pattern",
    ),
}
AT_ADMISSION: dict[str, dict[str, Any]] = {
    "minProperties": {"properties": {"a": DIGIT, "b": DIGIT}, "minProperties": 1},
    "maxProperties": {"properties": {"a": DIGIT, "b": DIGIT}, "maxProperties": 2},
    "propertyNames": {**A, "propertyNames": {"maxLength": 3}},
    "dependentRequired": {**A, "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {**A, "dependentSchemas": {"a": {"required": ["b"]}}},
    "not": {**A, "not": {"required": ["b"]}},
    "if": {**A, "if": {"required": ["b"]}, "then": {"required": ["c"]}},
    "unevaluatedProperties": {**A, "unevaluatedProperties": False},
}
"""Held by no dialect at all, so that no model need be asked."""


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dialect", TAGGED)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_held_is_refused_by_name(name: str, dialect: str, strict: bool) -> None:
    schema, keyword = REFUSED[name]
    with pytest.raises(LmxError) as caught:
        held(dialect, schema, strict=strict)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.UNSUPPORTED_PARAMETER, "tools")
    assert caught.value.message.startswith(f"'{keyword}'")
    assert "'t'" in caught.value.message


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dialect", TAGGED)
@pytest.mark.parametrize("keyword", AT_ADMISSION)
def test_what_nobody_can_hold_is_refused_by_place(keyword: str, dialect: str, strict: bool) -> None:
    with pytest.raises(LmxError) as caught:
        held(dialect, AT_ADMISSION[keyword], strict=strict)
    assert caught.value.kind is ErrorKind.UNSUPPORTED_PARAMETER
    assert caught.value.param == f"tools.0.function.parameters.{keyword}"


ALL_REFUSED = [*(schema for schema, _ in REFUSED.values()), *AT_ADMISSION.values()]


@pytest.mark.parametrize("fields", [{}, {"parallel_tool_calls": False}])
@pytest.mark.parametrize("dialect", TAGGED)
def test_where_nothing_is_promised_nothing_is_refused(dialect: str, fields: dict[str, Any]) -> None:
    for schema in ALL_REFUSED:
        tools = (Tool("t", "", schema),)
        request = GenerationRequest(model="m", prompt=Prompt(tools=tools), **fields)
        check(request, output="o", tools="tools")
        grammar = answer_grammar(request, Speech(dialect), thinking=False)
        call = written(dialect, "t", ("a", "anything at all"), ("New York", "3"))
        assert grammar is None or accepts(grammar, call)
        assert arguments(dialect, schema, call).keys() == {"a", "New York"}


@pytest.mark.parametrize("dialect", [name for name in FORMS if name not in TAGGED])
def test_dialects_of_json_hold_what_tags_cannot(dialect: str) -> None:
    for name in ("anyOf", "patterns beside a list", "a string's format"):
        assert held(dialect, REFUSED[name][0])


_VALUES = st.sampled_from([DIGIT, SHORT, DIGITS, {"type": ["integer", "string"], "enum": [1, "1"]}])
_NAMED = st.dictionaries(st.sampled_from(["a", "b", "it's"]), _VALUES, max_size=3)


@st.composite
def _objects(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": draw(_NAMED)}
    made["required"] = draw(st.lists(st.sampled_from(["a", "b", "z"]), max_size=2, unique=True))
    for key, values in (
        ("additionalProperties", st.one_of(st.booleans(), _VALUES)),
        ("minProperties", st.integers(0, 1)),
        ("maxProperties", st.integers(0, 4)),
        ("patternProperties", st.dictionaries(st.sampled_from(["^x", "y$"]), _VALUES, max_size=1)),
    ):
        if draw(st.booleans()):
            made[key] = draw(values)
    return made


def _described(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        inner,
        st.lists(inner, min_size=1, max_size=2).map(lambda members: {"allOf": members}),
        inner.map(lambda one: {"$ref": "#/$defs/d", "$defs": {"d": one}}),
        st.builds(lambda one, two: {"$ref": "#/$defs/d", "$defs": {"d": one}, **two}, inner, inner),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_described(_objects()), st.sampled_from(TAGGED), st.integers(0, 2**32))
def test_whatever_is_accepted_is_held(schema: dict[str, Any], dialect: str, seed: int) -> None:
    """Either it is refused, or nothing is let through that a validator would not."""
    try:
        grammar = held(dialect, schema)
    except LmxError:
        return
    found = walk(grammar, seed, 400)
    if found is not None:
        read = arguments(dialect, schema, found)
        assert jsonschema_rs.validator_for(schema).is_valid(read), (found, read)
