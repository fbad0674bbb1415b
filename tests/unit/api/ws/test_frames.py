"""Frames as clients send and read them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.openai.errors import render
from opta_lmx.api.openai.parse import ChatParser
from opta_lmx.api.ws.frames import ChatDialect, Frames, Head, chat_reader, read_head
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import TokenEvent, ToolCall, Usage
from opta_lmx.scheduling.rules import Position

DIALECT = ChatDialect(ChatParser(), render)
MESSAGES = [{"role": "user", "content": "hi"}]


def told(frame: bytes) -> dict[str, Any]:
    return json.loads(frame)


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_frame_is_one_json_object_with_its_id(request_id: str, text: str) -> None:
    frames = Frames(request_id, DIALECT)
    made = [
        frames.accepted(text, ["a"]),
        frames.token(text, ()),
        frames.token(text, [TokenEvent(0, 1, text.encode(), -0.5, ())]),
        frames.reasoning(text),
        frames.tool_call(2, ToolCall("id1", text, "{}")),
        frames.done("stop", Usage(3, 4, 1, 2), {"content": text}),
        frames.keepalive(None),
        frames.keepalive(Position(2, 1.0)),
        frames.failed(LmxError(ErrorKind.RATE_LIMITED, text, retry_after=2))[1],
    ]
    for frame in made:
        assert told(frame)["request_id"] == request_id
        assert told(frame)["type"].startswith("chat.")


def test_the_end_counts_exactly() -> None:
    done = told(Frames("a", DIALECT).done("length", Usage(3, 4, 1, 2), {}))
    assert done == {
        "type": "chat.done",
        "request_id": "a",
        "finish_reason": "length",
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_an_error_is_the_http_reply_under_the_requests_id(kind: ErrorKind) -> None:
    error = LmxError(kind, "No.", param="at", retry_after=4)
    status, _, body = render(error)
    told_status, frame = Frames("a", DIALECT).failed(error)
    assert told_status == status
    assert told(frame) == {"type": "chat.error", "request_id": "a", **json.loads(body)}


def test_what_is_asked_is_streamed_unless_it_says_otherwise() -> None:
    read = chat_reader(DIALECT, lenient=False)

    def stream(**fields: Any) -> bool:
        body = {"type": "chat.request", "request_id": "a", "model": "m", "messages": MESSAGES}
        return read(msgspec.json.encode({**body, **fields})).call.stream

    assert stream()
    assert stream(stream=None)
    assert stream(stream=True, stream_options={"include_usage": True})
    assert not stream(stream=False)


def test_unknown_fields_are_named_where_the_operator_lets_them_pass() -> None:
    body = msgspec.json.encode({"type": "x", "model": "m", "messages": MESSAGES, "colour": 1})
    assert chat_reader(DIALECT, lenient=True)(body).ignored == ("colour",)
    with pytest.raises(LmxError) as caught:
        chat_reader(DIALECT, lenient=False)(body)
    assert caught.value.param == "colour"


def head_of(body: bytes) -> Head | LmxError:
    try:
        return read_head(body)
    except LmxError as error:
        return error


ANY = st.none() | st.booleans() | st.integers() | st.text(max_size=150) | st.lists(st.integers())


@given(st.binary(max_size=40) | st.builds(lambda v: json.dumps(v).encode(), ANY))
def test_any_bytes_are_a_head_or_a_typed_error(body: bytes) -> None:
    found = head_of(body)
    assert isinstance(found, Head) or found.kind is ErrorKind.INVALID_REQUEST


@given(ANY, ANY)
def test_a_head_has_a_sound_id_or_none(kind: object, request_id: object) -> None:
    found = head_of(json.dumps({"type": kind, "request_id": request_id, "more": [1]}).encode())
    if isinstance(found, Head):
        assert found.type == kind
        assert found.request_id is None or 0 < len(found.request_id) <= 128
        assert found.request_id == request_id
