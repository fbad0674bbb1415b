"""Answers as bytes, read back with the official SDK's own types and its own stream reader."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from opta_lmx.api.exchange import Choice, Outcome
from opta_lmx.api.openai.render import DONE, ChatRendering
from opta_lmx.codec.deltas import (
    CallArguments,
    CallStart,
    Delta,
    FinishKind,
    ReasoningDelta,
    TextDelta,
    collect,
)
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import Accepted, Speech, TokenEvent, TopLogprob, Usage
from opta_lmx.scheduling.rules import Position
from opta_lmx.serving.answering import Ended, Spoke

CALL: list[Delta] = [CallStart(0, "abc123", "look"), CallArguments(0, '{"at": "sky"}')]
USAGE = Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=7, reasoning_tokens=2)
ACCEPTED = Accepted("m", 10, 100, Speech(), fingerprint="fp_1")
TOP = (TopLogprob(5, -0.1, b"hi"), TopLogprob(6, -2.5, b"\xc3"))
TOKEN = TokenEvent(0, 5, b"hi", -0.1, TOP)
COUNTS = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 7},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@pytest.fixture
def chunks() -> ChatRendering:
    return ChatRendering("chatcmpl-1", 1_790_000_000, 'a/"m"', include_usage=True)


def payload(event: bytes) -> dict[str, Any]:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    return json.loads(event[6:])


def chunk(event: bytes) -> ChatCompletionChunk:
    return ChatCompletionChunk.model_validate(payload(event), strict=True)


def client(body: bytes) -> openai.OpenAI:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(base_url="http://t/v1", api_key="k", http_client=transport, max_retries=0)


def stream(body: bytes) -> list[ChatCompletionChunk]:
    with client(body) as sdk:
        messages: Any = [{"role": "user", "content": "hi"}]
        return list(sdk.chat.completions.create(model="m", messages=messages, stream=True))


def said(delta: Delta, index: int = 0) -> Spoke:
    return Spoke(index, delta)


EVENTS: list[Callable[[ChatRendering], bytes]] = [
    lambda c: c.opened(ACCEPTED),
    lambda c: c.event(said(ReasoningDelta("hm"))),
    lambda c: c.event(said(TextDelta("hi"))),
    lambda c: c.event(Spoke(0, TextDelta("hi"), (TOKEN,))),
    lambda c: c.event(said(CALL[0])),
    lambda c: c.event(said(CALL[1])),
    lambda c: c.noop(),
    lambda c: c.event(Ended(0, "stop")),
]


@pytest.mark.parametrize("make", EVENTS)
def test_every_chunk_is_the_sdks_own_type(
    chunks: ChatRendering, make: Callable[[ChatRendering], bytes]
) -> None:
    read = chunk(make(chunks))
    assert (read.id, read.created, read.model) == ("chatcmpl-1", 1_790_000_000, 'a/"m"')
    assert read.object == "chat.completion.chunk"


def test_role_text_call_and_finish(chunks: ChatRendering) -> None:
    assert payload(chunks.waiting())["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    ]
    quoted = chunk(chunks.event(said(TextDelta('é "quoted"\n'))))
    assert quoted.choices[0].delta.content == 'é "quoted"\n'
    started, filled = (payload(chunks.event(said(delta)))["choices"][0]["delta"] for delta in CALL)
    assert started == {
        "tool_calls": [
            {
                "index": 0,
                "id": "abc123",
                "type": "function",
                "function": {"name": "look", "arguments": ""},
            }
        ]
    }
    arguments = {"index": 0, "function": {"arguments": '{"at": "sky"}'}}
    assert filled == {"tool_calls": [arguments]}
    ended = chunk(chunks.event(Ended(0, "tool_calls")))
    assert ended.choices[0].finish_reason == "tool_calls"
    assert payload(chunks.event(Ended(0, "length")))["choices"][0]["delta"] == {}


def test_the_role_is_said_once(chunks: ChatRendering) -> None:
    assert chunks.waiting()
    assert chunks.opened(ACCEPTED) == b""


def test_several_answers_are_told_apart() -> None:
    several = ChatRendering("chatcmpl-1", 1, "m", 3)
    events = several.opened(ACCEPTED).split(b"\n\n")[:-1]
    assert [json.loads(event[6:])["choices"][0]["index"] for event in events] == [0, 1, 2]
    assert chunk(several.event(said(TextDelta("x"), 2))).choices[0].index == 2
    assert chunk(several.event(Ended(1, "stop"))).choices[0].index == 1


def test_logprobs_come_with_their_text(chunks: ChatRendering) -> None:
    (choice,) = payload(chunks.event(Spoke(0, TextDelta("hi"), (TOKEN,))))["choices"]
    entry = {
        "token": "hi",
        "logprob": -0.1,
        "bytes": [104, 105],
        "top_logprobs": [
            {"token": "hi", "logprob": -0.1, "bytes": [104, 105]},
            {"token": "\ufffd", "logprob": -2.5, "bytes": [195]},
        ],
    }
    assert choice["logprobs"] == {"content": [entry], "refusal": None}


def test_the_noop_says_nothing(chunks: ChatRendering) -> None:
    (choice,) = chunk(chunks.noop()).choices
    assert not choice.delta.content
    assert choice.delta.role is None
    assert choice.finish_reason is None


def test_the_noop_tells_a_call_that_waits_where_it_stands() -> None:
    places = iter([Position(3, 4.26), None])
    waiting = ChatRendering("c", 1, "m", position=lambda: next(places))
    told = waiting.noop()
    assert chunk(told).choices[0].delta.content == ""
    assert payload(told)["x_opta"] == {"queue": {"position": 3, "estimate_s": 4.3}}
    assert "x_opta" not in payload(waiting.noop())


def test_usage_comes_without_choices_and_only_if_asked_for(chunks: ChatRendering) -> None:
    data = payload(chunks.finished(USAGE).removesuffix(DONE))
    assert data["choices"] == []
    assert data["usage"] == COUNTS
    assert ChatRendering("c", 1, "m").finished(USAGE) == DONE


def test_no_client_can_see_a_line_end_inside_an_event(chunks: ChatRendering) -> None:
    text = "a\x85b\u2028c\u2029d\r\n\x0b\x0c\x1ce"
    event = chunks.event(said(TextDelta(text)))
    assert len(event.decode().splitlines()) == 2
    assert chunk(event).choices[0].delta.content == text


def test_a_fingerprint_is_shown_once_it_is_known(chunks: ChatRendering) -> None:
    assert chunk(chunks.waiting()).system_fingerprint is None
    chunks.opened(ACCEPTED)
    assert chunk(chunks.event(said(TextDelta("x")))).system_fingerprint == "fp_1"


def test_the_sdk_reads_a_whole_stream(chunks: ChatRendering) -> None:
    body = b"".join(make(chunks) for make in EVENTS) + chunks.finished(USAGE)
    read = stream(body)
    assert "".join(c.choices[0].delta.content or "" for c in read if c.choices) == "hihi"
    assert read[-1].usage is not None
    assert read[-1].usage.prompt_tokens_details is not None
    assert read[-1].usage.prompt_tokens_details.cached_tokens == 7


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (ErrorKind.UPSTREAM_FAILED, "server_error"),
        (ErrorKind.INTERNAL, "server_error"),
        (ErrorKind.REQUEST_TIMEOUT, "server_error"),
        (ErrorKind.UNAVAILABLE, "overloaded_error"),
        (ErrorKind.RATE_LIMITED, "overloaded_error"),
        (ErrorKind.INSUFFICIENT_RESOURCES, "overloaded_error"),
        (ErrorKind.CONTEXT_LENGTH_EXCEEDED, "invalid_request_error"),
    ],
)
def test_an_error_in_the_stream_is_an_error_to_the_sdk(
    chunks: ChatRendering, kind: ErrorKind, word: str
) -> None:
    event = chunks.failed(LmxError(kind, "The worker is gone.", retry_after=3))
    assert payload(event)["error"] == {
        "message": "The worker is gone.",
        "type": word,
        "param": None,
        "code": kind.value,
    }
    with pytest.raises(openai.APIError, match="The worker is gone"):
        stream(chunks.event(said(TextDelta("part"))) + event)


def plain(deltas: list[Delta], finish: FinishKind) -> dict[str, Any]:
    choice = Choice(collect(deltas), finish)
    body = ChatRendering("chatcmpl-2", 1_790_000_000, "m").whole(
        Outcome(ACCEPTED, (choice,), USAGE)
    )
    data: dict[str, Any] = json.loads(body)
    assert ChatCompletion.model_validate(data, strict=True).id == "chatcmpl-2"
    return data


def test_a_plain_answer() -> None:
    assert plain([ReasoningDelta("hm"), TextDelta("He"), TextDelta("llo")], "stop") == {
        "id": "chatcmpl-2",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "refusal": None,
                    "reasoning_content": "hm",
                },
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": COUNTS,
        "system_fingerprint": "fp_1",
    }


def test_a_plain_answer_of_calls_has_null_content() -> None:
    message = plain(CALL, "tool_calls")["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {
                "id": "abc123",
                "function": {"name": "look", "arguments": '{"at": "sky"}'},
                "type": "function",
            }
        ],
    }


def test_an_empty_answer_is_an_empty_string() -> None:
    assert plain([], "stop")["choices"][0]["message"]["content"] == ""
    both = plain([TextDelta("So:"), *CALL], "tool_calls")
    assert both["choices"][0]["message"]["content"] == "So:"
