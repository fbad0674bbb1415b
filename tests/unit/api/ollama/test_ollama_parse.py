"""Ollama requests: what each field means, what is refused, and by which name."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.ollama.embed import parse_embed, parse_embeddings
from opta_lmx.api.ollama.parse import Call, head, parse_chat, parse_generate
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, JsonOutput, Message, Prompt, ToolCall

HELLO = [{"role": "user", "content": "hi"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> Call:
    return parse_chat({"model": "m", "messages": HELLO, **fields})


def generate(**fields: Any) -> Call:
    return parse_generate({"model": "m", "prompt": "hi", **fields})


def request(call: Call) -> GenerationRequest:
    assert call.request is not None
    return call.request


def test_streaming_is_the_default() -> None:
    assert (chat().stream, chat(stream=True).stream, chat(stream=False).stream) == (
        True,
        True,
        False,
    )


def test_the_tag_latest_says_nothing() -> None:
    call = chat(model="org/name:latest")
    assert (call.name, request(call).model) == ("org/name:latest", "org/name")
    assert head(b'{"model": "a:latest"}').model == "a"
    assert head(b'{"model": ":latest", "n": 7}').answers == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0, "top_p": 1}, {"temperature": 0, "top_p": 1}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 5, "min_p": 0.2}, {"top_k": 5, "min_p": 0.2}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": 0}, {"seed": 0}),
        ({"repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"repeat_penalty": 1.2, "repeat_last_n": -1}, {"repetition_penalty": 1.2}),
        ({"repeat_penalty": 1.2, "repeat_last_n": 0}, {"repetition_penalty": 1.0}),
        ({"repeat_last_n": 64}, {"repetition_penalty": None}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1}),
    ],
)
def test_options_of_sampling(options: dict[str, Any], expected: dict[str, Any]) -> None:
    sampling = request(chat(options=options)).sampling
    assert {name: getattr(sampling, name) for name in expected} == expected


@pytest.mark.parametrize(("said", "meant"), [(5, 5), (0, None), (-1, None), (-2, None)])
def test_how_far_to_predict(said: int, meant: int | None) -> None:
    assert request(chat(options={"num_predict": said})).max_tokens == meant


@pytest.mark.parametrize("stop", ["x", ["x"]])
def test_a_stop_may_be_one_string(stop: Any) -> None:
    assert request(chat(options={"stop": stop})).stop == ("x",)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"options": {"num_gpu": 1}}, "options.num_gpu"),
        ({"options": {"num_thread": 4}}, "options.num_thread"),
        ({"options": {"mirostat": 1}}, "options.mirostat"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"invented": 1}}, "options.invented"),
        ({"options": {"repeat_penalty": 1.5, "repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"num_predict": -3}}, "options.num_predict"),
        ({"options": {"num_ctx": 0}}, "options.num_ctx"),
        ({"options": {"stop": ["x"] * 17}}, "options.stop"),
        ({"truncate": True}, "truncate"),
        ({"shift": True}, "shift"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": True}, "keep_alive"),
        ({"format": "xml"}, "format"),
        ({"think": "sometimes"}, "think"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"invented": 1}, "invented"),
    ],
)
def test_what_is_refused_by_both(fields: dict[str, Any], param: str) -> None:
    for parse in (chat, generate):
        with pytest.raises(LmxError) as refused:
            parse(**fields)
        assert (refused.value.param or "").startswith(param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"context": [1]}, "context"),
        ({"template": "{{ x }}"}, "template"),
        ({"images": ["aGk="]}, "images"),
        ({"raw": True, "system": "s"}, "system"),
        ({"raw": True, "think": True}, "think"),
        ({"suffix": "x", "think": "low"}, "think"),
        ({"suffix": "s", "system": "s"}, "system"),
        ({"width": 5}, "width"),
    ],
)
def test_what_generate_refuses(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(LmxError) as refused:
        generate(**fields)
    assert refused.value.kind is ErrorKind.UNSUPPORTED_PARAMETER
    assert refused.value.param == param


def test_a_prompt_is_a_turn_unless_it_is_raw_or_has_a_suffix() -> None:
    turns = (Message("system", "be"), Message("user", "hi"))
    assert request(generate(system="be")).prompt.messages == turns
    assert request(generate(raw=True)).prompt == Prompt(text="hi")
    assert request(generate(suffix="end")).prompt == Prompt(text="hi", suffix="end")
    assert request(generate(suffix="", context=[], images=[])).prompt.messages == turns[1:]


@pytest.mark.parametrize(
    ("think", "kwargs"),
    [
        (None, {}),
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_thinking_is_the_templates_to_switch(think: Any, kwargs: dict[str, Any]) -> None:
    assert request(chat(think=think)).prompt.template_kwargs == kwargs


@pytest.mark.parametrize(
    ("format_", "output"),
    [
        (None, None),
        ("", None),
        ("json", JsonOutput()),
        ({"type": "object"}, JsonOutput({"type": "object"})),
    ],
)
def test_formats(format_: Any, output: JsonOutput | None) -> None:
    assert request(chat(format=format_)).output == output


@pytest.mark.parametrize(
    ("keep_alive", "unload"),
    [
        *((value, True) for value in (0, 0.0, "0", "0s", "0m", "-0s")),
        *((value, False) for value in (None, 5, -1, "5m", "1h30m", "-1", "10ms")),
    ],
)
def test_only_no_time_at_all_unloads(keep_alive: Any, unload: bool) -> None:
    call = parse_chat({"model": "m", "keep_alive": keep_alive})
    assert (call.request, call.unload) == (None, unload)
    assert parse_generate({"model": "m", "prompt": "", "keep_alive": keep_alive}).request is None


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, None),
        *((value, math.inf) for value in (-1, -0.5, "-1", "-1m", "-.5s", 1e300, "9" * 60)),
        *((value, 0.0) for value in (0, "0", "0s", "0h0m", "-0s", -0.0)),
        (5, 5.0),
        ("5", 5.0),
        ("1h30m", 5400.0),
        ("1.5m10ms", 90.01),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("3us", 3e-6),
    ],
)
def test_how_long_a_model_is_kept(keep_alive: Any, seconds: float | None) -> None:
    call = parse_chat({"model": "m", "messages": HELLO, "keep_alive": keep_alive})
    assert call.keep_s == (seconds if seconds is None else pytest.approx(seconds))


def test_calls_without_ids_get_some_and_results_find_them() -> None:
    called = {"function": {"name": "add", "arguments": {"a": [1, "é"]}}}
    other = {"function": {"index": 1, "name": "look", "arguments": {}}, "id": "own"}
    turns = [
        *HELLO,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [called, other]},
        {"role": "tool", "content": "3", "tool_name": "look"},
        {"role": "tool", "content": "4"},
    ]
    found = request(chat(messages=turns, tools=[ADD])).prompt.messages
    add, look = found[1].tool_calls
    assert (add.name, json.loads(add.arguments)) == ("add", {"a": [1, "é"]})
    assert look == ToolCall("own", "look", "{}")
    assert found[1].reasoning == "hm"
    assert (found[2].tool_call_id, found[2].name) == ("own", "look")
    assert (found[3].tool_call_id, found[3].name) == (add.id, "add")


def test_results_name_their_calls_where_they_do() -> None:
    calls = [{"id": name, "function": {"name": "add", "arguments": {}}} for name in ("x", "y")]
    turns = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "2", "tool_call_id": "y", "tool_name": "add"},
        {"role": "tool", "content": "1", "tool_call_id": "x"},
        {"role": "tool", "content": "?", "tool_call_id": "z", "tool_name": "gone"},
    ]
    found = request(chat(messages=turns)).prompt.messages
    assert [turn.tool_call_id for turn in found[1:]] == ["y", "x", "z"]
    assert [turn.name for turn in found[1:]] == ["add", "add", "gone"]


def test_a_history_of_thousands_of_open_calls_is_read_quickly() -> None:
    """Results that fit no call were sought among all that are open: a second for 200 kB."""
    calls = [{"function": {"name": "f"}}] * 10_000
    results = [{"role": "tool", "tool_name": "gone"}, {"role": "tool", "tool_name": "f"}] * 5_000
    began = time.process_time()
    found = request(chat(messages=[{"role": "assistant", "tool_calls": calls}, *results]))
    assert time.process_time() - began < 2
    named = [turn.tool_call_id for turn in found.prompt.messages[2::2]]
    assert named == [f"call_0_{number}" for number in range(5_000)]


def test_a_thousand_wrong_turns_are_one_fault() -> None:
    """Each fault has its price: the first one refuses the whole."""
    began = time.process_time()
    with pytest.raises(LmxError) as refused:
        chat(messages=[{}] * 300_000)
    assert refused.value.param == "messages.0.role"
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": "a", "images": ["aGk="]}, "messages.0.images"),
        ({"role": "robot", "content": "a"}, "messages.0.role"),
        ({"role": "user", "content": ["a"]}, "messages.0.content"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"role": "user", "content": "a", "colour": 1}, "messages.0.colour"),
    ],
)
def test_a_wrong_turn_is_named_by_its_place(message: dict[str, Any], param: str) -> None:
    with pytest.raises(LmxError) as refused:
        chat(messages=[message])
    assert refused.value.param == param


def test_two_tools_of_one_name() -> None:
    with pytest.raises(LmxError) as refused:
        chat(tools=[ADD, ADD])
    assert refused.value.param == "tools.1.function.name"


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=5)))
def test_any_options_are_understood_or_refused(options: dict[str, Any]) -> None:
    try:
        call = chat(options=options)
    except LmxError as error:
        refused = error
    else:
        assert request(call).model == "m"
        return
    assert (refused.param or "").startswith("options")


def test_embeddings_of_a_text_or_many() -> None:
    assert parse_embed({"model": "e:latest", "input": "a"}).request.inputs == ("a",)
    call = parse_embed({"model": "e", "input": ["a", "b"], "truncate": False, "dimensions": 8})
    assert (call.request.inputs, call.request.cut_to) == (("a", "b"), None)
    assert call.request.dimensions == 8
    assert parse_embed({"model": "e", "input": "a"}).request.cut_to
    cut = parse_embed({"model": "e", "input": "a", "options": {"num_ctx": 7}})
    assert cut.request.cut_to == 7
    old = parse_embeddings({"model": "e", "prompt": "a"})
    assert (old.request.inputs, old.request.place(0)) == (("a",), "prompt")


@pytest.mark.parametrize("value", [[], "", ["a", ""], ["a", 5], 5, None, {"a": 1}])
def test_what_cannot_be_embedded(value: Any) -> None:
    with pytest.raises(LmxError) as refused:
        parse_embed({"model": "e", "input": value})
    assert refused.value.param == "input"
