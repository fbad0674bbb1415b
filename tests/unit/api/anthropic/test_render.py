"""Answers as the SDK reads them: streamed and plain are one message, every event is in order."""

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from opta_lmx.api.anthropic.render import INVALID_JSON, PING, MessagesRendering
from opta_lmx.api.anthropic.signatures import hidden_thinking
from opta_lmx.api.exchange import Choice, Outcome
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
from opta_lmx.core.types import Accepted, Speech, Usage
from opta_lmx.serving.answering import Ended, Spoke

Json = dict[str, Any]

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
ACCEPTED = Accepted("m", 30, 100, Speech(), fingerprint="fp_1")
USAGE = Usage(30, 12, cached_tokens=20, reasoning_tokens=4)


def rendering(**options: Any) -> MessagesRendering:
    return MessagesRendering("msg_1", "m", **options)


def events(data: bytes) -> list[tuple[str, Json]]:
    found: list[tuple[str, Json]] = []
    for block in data.decode().split("\n\n")[:-1]:
        name, body = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(body.removeprefix("data: "))))
    return found


def streamed(
    deltas: list[Delta], finish: FinishKind, sequence: str | None = None, **options: Any
) -> bytes:
    told = rendering(**options)
    parts = [told.opened(ACCEPTED)]
    parts += [told.event(Spoke(0, delta)) for delta in deltas]
    parts += [told.event(Ended(0, finish, sequence)), told.finished(USAGE)]
    return b"".join(parts)


def whole(
    deltas: list[Delta], finish: FinishKind, sequence: str | None = None, **options: Any
) -> Message:
    choice = Choice(collect(deltas), finish, sequence, deltas=tuple(deltas))
    data = rendering(**options).whole(Outcome(ACCEPTED, (choice,), USAGE))
    return Message.model_validate_json(data, strict=True)


def accumulated(data: bytes) -> Message:
    """The message as the SDK puts it together."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for name, body in events(data):
        if name == "ping":
            continue
        event = EVENT.validate_json(json.dumps(body), strict=True)
        assert event.type == name
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return Message.model_validate(snapshot.model_dump())


TEXTS = st.lists(st.text(min_size=1, max_size=6), max_size=3)
ARGUMENTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """Thinking, then text, then calls with text between them, each cut anywhere."""
    found: list[Delta] = [ReasoningDelta(text) for text in draw(TEXTS)]
    found += [TextDelta(text) for text in draw(TEXTS)]
    for index, arguments in enumerate(draw(st.lists(ARGUMENTS, max_size=3))):
        found += [TextDelta(text) for text in draw(TEXTS)]
        found.append(CallStart(index, f"id{index}", "look"))
        text = json.dumps(arguments, ensure_ascii=draw(st.booleans()))
        cut = draw(st.integers(0, len(text)))
        found += [CallArguments(index, part) for part in (text[:cut], text[cut:]) if part]
    return found


def finish_of(deltas: list[Delta], otherwise: FinishKind) -> FinishKind:
    return "tool_calls" if any(isinstance(d, CallStart) for d in deltas) else otherwise


@given(answers(), st.sampled_from(["stop", "length"]), st.booleans())
def test_streamed_and_plain_are_one_message(
    deltas: list[Delta], otherwise: FinishKind, hide: bool
) -> None:
    finish = finish_of(deltas, otherwise)
    plain = whole(deltas, finish, hide_thinking=hide)
    joined = accumulated(streamed(deltas, finish, hide_thinking=hide))
    assert joined == plain
    if any(isinstance(d, ReasoningDelta) for d in deltas):
        thinking = plain.content[0]
        assert thinking.type == "thinking"
        said = "".join(d.text for d in deltas if isinstance(d, ReasoningDelta))
        assert (hidden_thinking(thinking.signature) if hide else thinking.thinking) == said
        assert thinking.signature


ANY_DELTA = st.one_of(
    st.builds(ReasoningDelta, st.text(min_size=1, max_size=3)),
    st.builds(TextDelta, st.text(min_size=1, max_size=3)),
)


@given(st.lists(ANY_DELTA, max_size=8))
def test_blocks_open_and_close_in_order_whatever_comes(deltas: list[Delta]) -> None:
    data = streamed(deltas, "stop")
    assert data.count(b"\n\n") == len(events(data))
    opened: int | None = None
    seen = -1
    for name, body in events(data):
        if name == "content_block_start":
            assert opened is None
            assert body["index"] == seen + 1
            opened = seen = body["index"]
        elif name == "content_block_delta":
            assert body["index"] == opened
        elif name == "content_block_stop":
            assert body["index"] == opened
            opened = None
    assert opened is None
    assert [name for name, _ in events(data)][-2:] == ["message_delta", "message_stop"]


def test_line_ends_of_any_alphabet_stay_inside_their_event() -> None:
    data = streamed([TextDelta("a\u2028b\u2029c\u0085d\ne")], "stop").decode()
    assert len(data.splitlines()) == data.count("\n")


@pytest.mark.parametrize(
    ("finish", "sequence", "reason"),
    [
        ("stop", None, "end_turn"),
        ("stop", "HALT", "stop_sequence"),
        ("length", None, "max_tokens"),
    ],
)
def test_why_it_ended(finish: FinishKind, sequence: str | None, reason: str) -> None:
    plain = whole([TextDelta("a")], finish, sequence)
    assert (plain.stop_reason, plain.stop_sequence) == (reason, sequence)
    assert accumulated(streamed([TextDelta("a")], finish, sequence)) == plain


def test_a_call_is_a_tool_use_and_its_input_an_object() -> None:
    deltas: list[Delta] = [CallStart(0, "abc", "look"), CallArguments(0, '{"at":"door"}')]
    plain = whole(deltas, "tool_calls", "HALT")
    assert (plain.stop_reason, plain.stop_sequence) == ("tool_use", None)
    (block,) = plain.content
    assert block.type == "tool_use"
    assert (block.id, block.name, block.input) == ("toolu_abc", "look", {"at": "door"})
    (bare,) = whole([CallStart(0, "abc", "look")], "tool_calls").content
    assert bare.type == "tool_use"
    assert bare.input == {}


@pytest.mark.parametrize("text", ['{"at":"do', "nonsense", "[1]", '"x"'])
def test_a_broken_call_is_told_as_cut(text: str) -> None:
    deltas: list[Delta] = [CallStart(0, "abc", "look"), CallArguments(0, text)]
    plain = whole(deltas, "tool_calls")
    assert plain.stop_reason == "max_tokens"
    (block,) = plain.content
    assert block.type == "tool_use"
    assert block.input == {INVALID_JSON: text}
    last = dict(events(streamed(deltas, "tool_calls")))["message_delta"]
    assert last["delta"]["stop_reason"] == "max_tokens"


def test_counts_are_anthropics() -> None:
    usage = whole([TextDelta("a")], "stop").usage
    assert usage.input_tokens == 10
    assert usage.cache_read_input_tokens == 20
    assert usage.cache_creation_input_tokens == 0
    assert usage.output_tokens == 12
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 4


def test_a_stream_that_waits_begins_at_once_and_pings() -> None:
    told = rendering()
    first = told.waiting()
    assert [name for name, _ in events(first)] == ["message_start", "ping"]
    assert told.noop() == PING
    assert told.opened(ACCEPTED) == b""
    rest = told.event(Ended(0, "stop")) + told.finished(USAGE)
    joined = accumulated(first + told.noop() + rest)
    assert joined.content == []
    assert joined.usage.input_tokens == 10


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_an_error_ends_the_stream_in_words_that_are_retried_on(kind: ErrorKind) -> None:
    ((name, body),) = events(rendering().failed(LmxError(kind, "It broke.", retry_after=3)))
    assert name == body["type"] == "error"
    message = body["error"]["message"]
    passing = {
        ErrorKind.RATE_LIMITED: "Overloaded",
        ErrorKind.UNAVAILABLE: "Overloaded",
        ErrorKind.INSUFFICIENT_RESOURCES: "Overloaded",
        ErrorKind.REQUEST_TIMEOUT: "Internal server error",
        ErrorKind.UPSTREAM_FAILED: "Internal server error",
        ErrorKind.INTERNAL: "Internal server error",
    }
    wanted = passing.get(kind)
    assert message == ("It broke." if wanted is None else f"{wanted}: It broke.")
