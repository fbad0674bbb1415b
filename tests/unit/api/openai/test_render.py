"""Answers as bytes, read back with the official SDK's own types and its own stream reader."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from opta_lmx.api.openai.render import DONE, ChunkStream, completion
from opta_lmx.codec.answer import CallDelta, Delta, TextDelta
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import ToolCall, Usage

CALL = CallDelta(0, ToolCall("abc123", "look", '{"at": "sky"}'))
USAGE = Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=7)


@pytest.fixture
def chunks() -> ChunkStream:
    return ChunkStream("chatcmpl-1", 1_790_000_000, 'a/"m"')


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


EVENTS: list[Callable[[ChunkStream], bytes]] = [
    lambda c: c.role(),
    lambda c: c.text("hi"),
    lambda c: c.call(CALL),
    lambda c: c.noop(),
    lambda c: c.finish("stop"),
    lambda c: c.usage(USAGE),
]


@pytest.mark.parametrize("make", EVENTS)
def test_every_chunk_is_the_sdks_own_type(
    chunks: ChunkStream, make: Callable[[ChunkStream], bytes]
) -> None:
    read = chunk(make(chunks))
    assert (read.id, read.created, read.model) == ("chatcmpl-1", 1_790_000_000, 'a/"m"')
    assert read.object == "chat.completion.chunk"
    assert read.system_fingerprint is None


def test_role_text_call_and_finish(chunks: ChunkStream) -> None:
    assert payload(chunks.role())["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    ]
    assert chunk(chunks.text('é "quoted"\n')).choices[0].delta.content == 'é "quoted"\n'
    assert payload(chunks.call(CALL))["choices"][0]["delta"] == {
        "tool_calls": [
            {
                "id": "abc123",
                "function": {"name": "look", "arguments": '{"at": "sky"}'},
                "type": "function",
                "index": 0,
            }
        ]
    }
    assert chunk(chunks.finish("tool_calls")).choices[0].finish_reason == "tool_calls"
    assert payload(chunks.finish("length"))["choices"][0]["delta"] == {}


def test_the_noop_says_nothing(chunks: ChunkStream) -> None:
    (choice,) = chunk(chunks.noop()).choices
    assert not choice.delta.content
    assert choice.delta.role is None
    assert choice.finish_reason is None


def test_usage_comes_without_choices(chunks: ChunkStream) -> None:
    data = payload(chunks.usage(USAGE))
    assert data["choices"] == []
    assert data["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 7},
    }


def test_no_client_can_see_a_line_end_inside_an_event(chunks: ChunkStream) -> None:
    text = "a\x85b\u2028c\u2029d\r\n\x0b\x0c\x1ce"
    event = chunks.text(text)
    assert len(event.decode().splitlines()) == 2
    assert chunk(event).choices[0].delta.content == text


def test_a_fingerprint_is_shown_when_given() -> None:
    named = ChunkStream("chatcmpl-1", 1, "m", fingerprint="fp_1")
    assert chunk(named.text("x")).system_fingerprint == "fp_1"


def test_the_sdk_reads_a_whole_stream(chunks: ChunkStream) -> None:
    body = b"".join(make(chunks) for make in EVENTS) + DONE
    read = stream(body)
    assert "".join(c.choices[0].delta.content or "" for c in read if c.choices) == "hi"
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
    chunks: ChunkStream, kind: ErrorKind, word: str
) -> None:
    event = chunks.error(LmxError(kind, "The worker is gone.", retry_after=3))
    assert payload(event)["error"] == {
        "message": "The worker is gone.",
        "type": word,
        "param": None,
        "code": kind.value,
    }
    with pytest.raises(openai.APIError, match="The worker is gone"):
        stream(chunks.text("part") + event)


def plain(deltas: list[Delta], reason: str, fingerprint: str | None = None) -> dict[str, Any]:
    body = completion(
        id="chatcmpl-2",
        created=1_790_000_000,
        model="m",
        deltas=deltas,
        finish_reason=reason,
        usage=USAGE,
        fingerprint=fingerprint,
    )
    data: dict[str, Any] = json.loads(body)
    assert ChatCompletion.model_validate(data, strict=True).id == "chatcmpl-2"
    return data


def test_a_plain_answer() -> None:
    assert plain([TextDelta("He"), TextDelta("llo")], "stop", "fp_1") == {
        "id": "chatcmpl-2",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 7},
        },
        "system_fingerprint": "fp_1",
    }


def test_a_plain_answer_of_calls_has_null_content() -> None:
    message = plain([CALL], "tool_calls")["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
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
    assert (
        plain([TextDelta("So:"), CALL], "tool_calls")["choices"][0]["message"]["content"] == "So:"
    )
