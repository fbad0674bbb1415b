"""The grammar of whole answers: thinking, JSON, calls of every dialect, text around them."""

import json
import re
from typing import Any

import jsonschema_rs
import pytest

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.constraints import answer_grammar, resolve
from opta_lmx.codec.constraints.calls import FORMS
from opta_lmx.codec.deltas import CallArguments, CallStart
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, JsonOutput, Prompt, Speech, Tool, ToolChoice
from tests.unit.codec.constraints.walking import accepts, begins, walk

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 6},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"type": "string", "enum": ["C", "F"]},
    },
    "required": ["city", "days"],
}
OPEN: dict[str, Any] = {"type": "object", "patternProperties": {"^.*$": {}}}
TOOLS = (Tool("weather", parameters=WEATHER), Tool("open", parameters=OPEN))
STRICT = (Tool("weather", parameters=WEATHER, strict=True), Tool("open", parameters=OPEN))
REQUIRED = ToolChoice("required")
NAMED = ToolChoice("required", "weather")
JSON_CALL = '{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}'

CALLS = {
    "json": JSON_CALL,
    "llama3": '{"name": "weather", "parameters": {"city": "Oslo", "days": 3}}',
    "hermes": f"<tool_call>\n{JSON_CALL}\n</tool_call>",
    "mistral": f"[TOOL_CALLS][{JSON_CALL}]",
    "deepseek": "<\uff5ctool▁calls▁begin\uff5c><\uff5ctool▁call▁begin\uff5c>weather"
    '<\uff5ctool▁sep\uff5c>{"city": "Oslo", "days": 3}<\uff5ctool▁call▁end\uff5c>'
    "<\uff5ctool▁calls▁end\uff5c>",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
    '<|tool_call_argument_begin|>{"city": "Oslo", "days": 3}<|tool_call_end|>'
    "<|tool_calls_section_end|>",
    "qwen3-coder": "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "seed": "<seed:tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</seed:tool_call>",
    "glm": "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "minimax": '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Oslo'
    '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
    "harmony": "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    '{"city": "Oslo", "days": 3}',
}


HERMES = Speech("hermes")
_ARGUMENTS = re.compile(
    r'(?:arguments": |parameters": |sep\uff5c>|argument_begin\|>|message\|>|json\n)(\{.*\})',
    re.DOTALL,
)


def grammar_of(
    speech: Speech = HERMES,
    tools: tuple[Tool, ...] = TOOLS,
    thinking: bool = False,
    **fields: Any,
) -> str:
    request = GenerationRequest(model="m", prompt=Prompt(tools=tools), **fields)
    grammar = answer_grammar(request, speech, thinking)
    assert grammar is not None
    return grammar


def test_every_form_has_its_example() -> None:
    assert CALLS.keys() == FORMS.keys()


@pytest.mark.parametrize("dialect", FORMS)
def test_a_required_call_is_written_as_the_dialect_writes_it(dialect: str) -> None:
    grammar = grammar_of(Speech(dialect), tool_choice=REQUIRED)
    call = CALLS[dialect]
    assert accepts(grammar, call)
    assert not accepts(grammar, "")
    assert not begins(grammar, "Sure")
    assert not begins(grammar, call.replace("weather", "whether"))
    # The schema is held: a count as a word, a missing city, a key that is not listed.
    assert not begins(grammar, call[: call.index("Oslo")] + "Oslo-and-more-of-it</p")
    assert not accepts(grammar, re.sub("3", '"3"', call))
    assert not accepts(grammar, call.replace("city", "town"))


@pytest.mark.parametrize("dialect", [name for name in FORMS if FORMS[name].many])
def test_several_calls_where_the_request_allows(dialect: str) -> None:
    form, call = FORMS[dialect], CALLS[dialect]
    head, tail = "".join(form.opening), "".join(form.closing)
    one = call.removeprefix(head).removesuffix(tail)
    two = head + one + "".join(form.between) + one + tail
    assert accepts(grammar_of(Speech(dialect), tool_choice=REQUIRED), two)
    for fields in ({"tool_choice": NAMED}, {"tool_choice": REQUIRED, "parallel_tool_calls": False}):
        grammar = grammar_of(Speech(dialect), **fields)
        assert accepts(grammar, call)
        assert not accepts(grammar, two)


def test_a_named_call_is_of_that_tool() -> None:
    grammar = grammar_of(tool_choice=NAMED)
    assert not begins(grammar, '<tool_call>\n{"name": "open"')
    assert begins(grammar_of(tool_choice=REQUIRED), '<tool_call>\n{"name": "open"')


@pytest.mark.parametrize("dialect", FORMS)
def test_the_parser_of_the_dialect_reads_it(dialect: str) -> None:
    for text in (CALLS[dialect], "Hm.\n" + CALLS[dialect] if FORMS[dialect].trigger else ""):
        answer = Answer(AnswerStyle(speech=Speech(dialect), tools=TOOLS))
        deltas = answer.feed(text.encode()) if text else []
        last, finish = answer.finish("stop")
        if text:
            assert finish == "tool_calls"
            (call,) = [d for d in (*deltas, *last) if isinstance(d, CallStart)]
            written = [d.text for d in (*deltas, *last) if isinstance(d, CallArguments)]
            assert call.name == "weather"
            assert json.loads("".join(written)) == {"city": "Oslo", "days": 3}


@pytest.mark.parametrize("dialect", FORMS)
def test_random_required_calls_hold_their_schema(dialect: str) -> None:
    grammar = grammar_of(Speech(dialect), tool_choice=NAMED)
    answers = [answer for seed in range(12) if (answer := walk(grammar, seed, 700))]
    assert len(answers) >= 6
    validator = jsonschema_rs.validator_for(WEATHER)
    for answer in answers:
        found = _ARGUMENTS.search(answer)
        if found is None:
            assert dialect in ("qwen3-coder", "seed", "glm", "minimax")
            continue
        value, _ = json.JSONDecoder().raw_decode(found[1])
        validator.validate(value)


SAID: dict[str, dict[str, Any]] = {
    "enum": {"enum": ["to day", "never"]},
    "const": {"const": "a < b"},
    "a list of types": {"type": ["string"], "maxLength": 3},
    "reference": {"$ref": "#/$defs/unit"},
    "all of one": {"allOf": [{"$ref": "#/$defs/unit"}]},
    "any of": {"anyOf": [{"const": "C"}, {"type": "string", "pattern": "^[0-9]{2}$"}]},
    "any of, typed": {"type": "string", "anyOf": [{"maxLength": 2}, {"pattern": "^[a-f]{4}$"}]},
    "string or null": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    "number or string": {"type": ["integer", "string"], "enum": [1, "1"]},
    "anything": {},
}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("dialect", FORMS)
def test_what_is_held_to_a_schema_is_read_as_it(dialect: str, said: str) -> None:
    """However a schema says that a value is a string."""
    schema = {
        "type": "object",
        "properties": {"it": SAID[said]},
        "required": ["it"],
        "$defs": {"unit": {"type": "string", "enum": ["C", "F"]}},
    }
    tools = (Tool("tell", parameters=schema),)
    fields = {"tools": tools, "tool_choice": REQUIRED, "parallel_tool_calls": False}
    grammar = grammar_of(Speech(dialect), **fields)
    walks = [walk(grammar, seed, 300) for seed in range(4)]
    answers = [found for found in walks if found]
    assert answers or said == "anything"
    for found in answers:
        answer = Answer(AnswerStyle(speech=Speech(dialect), tools=tools))
        deltas = answer.feed(found.encode())
        deltas += answer.finish("stop")[0]
        written = "".join(d.text for d in deltas if isinstance(d, CallArguments))
        jsonschema_rs.validator_for(schema).validate(json.loads(written))


@pytest.mark.parametrize("dialect", [name for name in FORMS if name != "harmony"])
def test_text_is_free_until_a_strict_call(dialect: str) -> None:
    grammar = grammar_of(Speech(dialect), STRICT)
    call = CALLS[dialect]
    assert accepts(grammar, "No call at all, only { words }.")
    assert accepts(grammar, call)
    assert not accepts(grammar, call.replace("city", "town"))
    if FORMS[dialect].trigger:
        assert accepts(grammar, "Let me see.\n" + call)
        assert not accepts(grammar, "Let me see.\n" + call.replace("city", "town"))


def test_tools_that_are_not_strict_take_any_arguments_beside_strict_ones() -> None:
    grammar = grammar_of(tools=STRICT)
    assert accepts(grammar, '<tool_call>\n{"name": "open", "arguments": {"x": [1]}}\n</tool_call>')


def test_at_most_one_call() -> None:
    grammar = grammar_of(parallel_tool_calls=False)
    assert accepts(grammar, "Text only.")
    assert accepts(grammar, "First: " + CALLS["hermes"])
    assert not begins(grammar, CALLS["hermes"] + "\n<")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tool_choice": ToolChoice("none"), "parallel_tool_calls": False},
        {"tools": (), "parallel_tool_calls": False},
    ],
)
def test_nothing_is_held_that_need_not_be(fields: dict[str, Any]) -> None:
    prompt = Prompt(tools=fields.pop("tools", TOOLS))
    request = GenerationRequest(model="m", prompt=prompt, **fields)
    assert answer_grammar(request, Speech("gemma4"), thinking=False) is None


def test_json_or_calls() -> None:
    grammar = grammar_of(output=JsonOutput({"type": "object", "properties": {"a": {"const": 1}}}))
    assert accepts(grammar, '{"a": 1}')
    assert accepts(grammar, CALLS["hermes"])
    assert not begins(grammar, "Text")


@pytest.mark.parametrize("reasoning", ["", "think"])
def test_thinking_comes_before_what_is_held(reasoning: str) -> None:
    speech = Speech("hermes", reasoning)
    opened = grammar_of(speech, thinking=True, output=JsonOutput(), tools=())
    assert accepts(opened, 'hm, {"a"\n</think>\n\n{"a": 1}')
    assert not accepts(opened, '{"a": 1}')
    assert not begins(opened, "hm</think>\n\nSo")
    optional = grammar_of(speech, tool_choice=REQUIRED)
    assert accepts(optional, CALLS["hermes"])
    thought = "<think>\nshould I call <tool_call>?\n</think>\n\n" + CALLS["hermes"]
    assert accepts(optional, thought) is bool(reasoning)


def test_channels_are_heads_of_what_is_held() -> None:
    speech = Speech("harmony", "harmony")
    thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    grammar = grammar_of(speech, tools=(), output=JsonOutput())
    assert accepts(grammar, '<|channel|>final<|message|>{"a": 1}')
    assert accepts(grammar, thought + '<|channel|>final<|message|>{"a": 1}')
    assert not begins(grammar, '{"a"')
    assert accepts(grammar_of(speech, tool_choice=REQUIRED), thought + CALLS["harmony"])
    free = grammar_of(speech, STRICT)
    assert accepts(free, "<|channel|>final<|message|>words")
    assert not accepts(free, CALLS["harmony"].replace("city", "town"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": REQUIRED}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": STRICT}, "tools"),
    ],
)
def test_dialects_without_a_grammar(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(LmxError) as caught:
        grammar_of(Speech("gemma4"), **fields)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.UNSUPPORTED_PARAMETER, param)


def test_marks_become_tokens_where_the_vocabulary_has_them() -> None:
    grammar = grammar_of(Speech("hermes", "think"), STRICT)
    ids = {"<tool_call>": 7, "</tool_call>": 8, "</think>": 9}
    rewritten = resolve(grammar, ids.get)
    assert {int(found) for found in re.findall(r"<\[(\d+)\]>", rewritten)} <= set(ids.values())
    assert "<[7]>" in rewritten
    assert resolve(grammar, lambda _: None) == grammar
    # Spelled in letters, a mark is still not a way around the schema.
    assert not begins(rewritten, "text <tool_call>")
    assert accepts(rewritten, "text <tool_cal")
