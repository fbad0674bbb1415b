"""Text completion requests: every shape of prompt, every limit, every fault by its name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.openai.completions_parse import CompletionCall, CompletionParser
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import Prompt

PARSER = CompletionParser(max_choices=8)


def parse(**fields: Any) -> CompletionCall:
    return PARSER({"model": "m", "prompt": "hi", **fields})


def refused(**fields: Any) -> LmxError:
    with pytest.raises(LmxError) as error:
        parse(**fields)
    return error.value


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", [Prompt(text="hi")]),
        (None, [Prompt(text="")]),
        (["a", "b"], [Prompt(text="a"), Prompt(text="b")]),
        ([1, 2], [Prompt(ids=(1, 2))]),
        ([[1, 2], [3]], [Prompt(ids=(1, 2)), Prompt(ids=(3,))]),
    ],
)
def test_every_shape_of_prompt(prompt: Any, expected: list[Prompt]) -> None:
    assert [one.prompt for one in parse(prompt=prompt).requests] == expected


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        (5, "prompt"),
        ({"text": "a"}, "prompt"),
        (["a", 5], "prompt.1"),
        ([1, "a"], "prompt.1"),
        ([1, True], "prompt.1"),
        ([1, -1], "prompt.1"),
        ([1, 2**31], "prompt.1"),
        ([1.5], "prompt.0"),
        ([None], "prompt.0"),
        ([[1], []], "prompt.1"),
        ([[1], [2, "x"]], "prompt.1.1"),
        ([[1], 2], "prompt.1"),
    ],
)
def test_a_wrong_prompt_is_named_by_its_place(prompt: Any, param: str) -> None:
    error = refused(prompt=prompt)
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, param)


def test_openais_defaults() -> None:
    call = parse()
    (request,) = call.requests
    assert request.max_tokens is None
    assert (call.n, call.each, call.stream, call.echo, call.generate) == (1, 1, False, False, True)
    assert (call.logprobs, request.top_logprobs) == (None, None)
    assert not request.prompt.messages


def test_every_field_reaches_the_core() -> None:
    call = parse(
        prompt="before",
        suffix="after",
        max_tokens=5,
        n=2,
        stop=["x", "y"],
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        seed=3,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        repetition_penalty=1.1,
        logit_bias={"5": -100},
        logprobs=3,
        user="somebody",
    )
    (request,) = call.requests
    sampling = request.sampling
    assert request.prompt == Prompt(text="before", suffix="after")
    assert (request.max_tokens, request.stop, request.top_logprobs) == (5, ("x", "y"), 3)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.seed, sampling.repetition_penalty) == (0.1, 3, 1.1)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.5, -0.5)
    assert (request.logit_bias, request.user) == (((5, -100.0),), "somebody")
    assert (call.n, call.each) == (2, 2)


def test_best_of_measures_what_nobody_asked_to_see() -> None:
    call = parse(n=1, best_of=3)
    assert (call.n, call.each, call.logprobs) == (1, 3, None)
    assert call.requests[0].top_logprobs == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 9}, "best_of"),
        ({"n": 9}, "n"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 3}, "prompt"),
        ({"prompt": [[1], [2], [3]], "best_of": 3}, "prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"echo": True, "logprobs": 0}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": [1], "suffix": "x"}, "suffix"),
        ({"prompt": [[1]], "suffix": "x"}, "suffix"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"stop": ["a"] * 5}, "stop"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_echo_alone_needs_no_tokens() -> None:
    call = parse(echo=True, max_tokens=0)
    assert (call.echo, call.generate) == (True, False)
    assert call.requests[0].echo


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n": 3}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"prompt": ["a"] * 4, "n": 3, "best_of": 3}, "prompt"),
        ({"prompt": ["a"] * 2, "n": 3}, "n"),
    ],
)
def test_too_many_answers_are_blamed_on_what_asks_for_most(
    fields: dict[str, Any], name: str
) -> None:
    assert PARSER.head(json.dumps({"model": "m", **fields}).encode()).counted_by == name


def head(**fields: Any) -> int:
    return PARSER.head(json.dumps({"model": "m", **fields}).encode()).answers


@given(
    prompts=st.integers(1, 4),
    n=st.integers(1, 4) | st.none(),
    best_of=st.integers(1, 4) | st.none(),
    tokens=st.booleans(),
)
def test_the_gate_counts_what_the_parser_will_run(
    prompts: int, n: int | None, best_of: int | None, tokens: bool
) -> None:
    prompt = [[1]] * prompts if tokens else ["a"] * prompts
    fields = {"prompt": prompt, "n": n, "best_of": best_of}
    counted = head(**fields)
    try:
        call = parse(**fields)
    except LmxError:
        return
    assert counted == len(call.requests) * call.each


@pytest.mark.parametrize("prompt", ["text", None, [], [1, 2, 3], {}, 5])
def test_the_gate_takes_anything_else_for_one(prompt: Any) -> None:
    assert head(prompt=prompt) == 1


def test_the_gate_never_counts_above_the_bound() -> None:
    assert head(prompt=["a"] * 1000, n=1000) == 8


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"model": 5}', b"{}"])
def test_the_gate_refuses_what_names_no_model(body: bytes) -> None:
    with pytest.raises(LmxError):
        PARSER.head(body)
