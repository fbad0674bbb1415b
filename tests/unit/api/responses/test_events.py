"""The events of a response: valid, in order, and adding up to the plain answer."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.responses.events import ResponseEvents, server_sent
from opta_lmx.api.responses.parse import parse_create
from opta_lmx.api.responses.resource import blank, usage_of
from opta_lmx.codec.deltas import CallArguments, CallStart, Delta, ReasoningDelta, TextDelta
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import TokenEvent, TopLogprob, Usage
from opta_lmx.serving.answering import Spoke
from tests.support.openresponses import fold, valid

Json = dict[str, Any]
USAGE = usage_of(Usage(9, 4, 3, 1))
TOKEN = TokenEvent(0, 7, b"\xe2\x82", -0.5, (TopLogprob(7, -0.5, b"\xe2\x82"),))


def fresh(*, encrypted: bool = False, **fields: Any) -> ResponseEvents:
    draft = parse_create({"model": "m", "input": "hi", **fields})
    return ResponseEvents(blank(draft, "resp_1", 1_800_000_000), encrypted=encrypted)


def told(events: ResponseEvents, said: list[Delta], finish: Any = "stop") -> list[Json]:
    stream = events.opened()
    for delta in said:
        stream += events.spoke(Spoke(0, delta, (TOKEN,) if isinstance(delta, TextDelta) else ()))
    stream += events.ended(finish, USAGE, 1_800_000_001)
    return stream + events.terminal()


texts = st.text(min_size=1, max_size=8)
calls = st.lists(st.lists(texts, max_size=3), max_size=3)
spoken = st.lists(st.one_of(texts.map(TextDelta), texts.map(ReasoningDelta)), max_size=6)


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """Thinking and text in any order, then calls with their arguments in pieces."""
    said: list[Delta] = list(draw(spoken))
    for index, pieces in enumerate(draw(calls)):
        said.append(CallStart(index, f"call{index}", "f"))
        said += [CallArguments(index, piece) for piece in pieces]
    return said


@given(answers(), st.sampled_from(["stop", "length", "tool_calls"]), st.booleans(), st.data())
def test_the_parts_of_a_stream_add_up_to_its_last_event(
    said: list[Delta], finish: str, encrypted: bool, data: st.DataObject
) -> None:
    events = fresh(encrypted=encrypted)
    stream = data.draw(st.sampled_from([events.waiting, list]))() + events.opened()
    for delta in said:
        if data.draw(st.booleans()):
            stream += events.noop()
        stream += events.spoke(Spoke(0, delta))
    stream += events.ended(finish, USAGE, 1_800_000_001)  # type: ignore[arg-type]
    stream += events.noop() + events.terminal()
    assert fold(stream) == stream[-1]["response"]
    valid("ResponseResource", events.response)
    assert events.noop() == []


@given(answers(), st.sampled_from(["stop", "length"]))
def test_how_text_is_cut_into_deltas_changes_only_the_deltas(
    said: list[Delta], finish: str
) -> None:
    def content(items: list[Json]) -> list[Json]:
        return [{k: v for k, v in item.items() if k != "id"} for item in items]

    split: list[Delta] = []
    for delta in said:
        if isinstance(delta, TextDelta | ReasoningDelta):
            split += [type(delta)(char) for char in delta.text]
        elif isinstance(delta, CallArguments):
            split += [CallArguments(delta.index, char) for char in delta.text]
        else:
            split.append(delta)
    one, many = fresh(), fresh()
    for events, deltas in ((one, said), (many, split)):
        events.opened()
        for delta in deltas:
            events.spoke(Spoke(0, delta))
        events.ended(finish, USAGE, 1)  # type: ignore[arg-type]
    assert content(one.response["output"]) == content(many.response["output"])


@given(answers(), st.sampled_from([*ErrorKind]))
def test_a_failure_anywhere_ends_the_stream_with_a_valid_event(
    said: list[Delta], kind: ErrorKind
) -> None:
    events = fresh()
    stream = events.opened()
    for delta in said:
        stream += events.spoke(Spoke(0, delta))
    stream += events.failed(LmxError(kind, "it broke"))
    response = stream[-1]["response"]
    assert fold(stream) == response
    assert response["status"] == "failed"
    assert response["error"]["message"] == "it broke"
    statuses = [item["status"] for item in response["output"] if "status" in item]
    assert "in_progress" not in statuses


def test_an_answer_of_each_kind() -> None:
    said = [
        ReasoningDelta("think"),
        TextDelta("so "),
        TextDelta("it is"),
        CallStart(0, "abc", "f"),
        CallArguments(0, "{}"),
    ]
    stream = told(fresh(encrypted=True), said, "tool_calls")
    assert [event["type"].removeprefix("response.") for event in stream] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    thinking, message, call = stream[-1]["response"]["output"]
    assert thinking["summary"] == [{"type": "summary_text", "text": "think"}]
    assert thinking["encrypted_content"].startswith("lmx1.")
    assert message["content"][0]["text"] == "so it is"
    assert [entry["bytes"] for entry in message["content"][0]["logprobs"]] == [[226, 130]] * 2
    assert (call["call_id"], call["arguments"], call["status"]) == ("abc", "{}", "completed")


def test_a_cut_answer_is_incomplete_and_only_its_last_item() -> None:
    response = told(fresh(), [ReasoningDelta("a"), TextDelta("b")], "length")[-1]["response"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert response["output"][-1]["status"] == "incomplete"


def test_an_answer_that_says_nothing_is_an_empty_message() -> None:
    response = told(fresh(), [])[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == ""
    assert response["status"] == "completed"


def test_waiting_says_queued_until_the_call_is_accepted() -> None:
    events = fresh()
    assert events.noop() == [], "nothing before the first event"
    stream = events.waiting()
    assert [event["type"] for event in stream] == ["response.created", "response.queued"]
    assert events.noop()[0]["type"] == "response.queued"
    assert [event["type"] for event in events.opened()] == ["response.in_progress"]
    assert events.noop()[0]["type"] == "response.in_progress"


def test_what_is_retriable_is_told_by_a_code_clients_retry_on() -> None:
    codes: dict[ErrorKind, str] = {}
    for kind in ErrorKind:
        events = fresh()
        events.opened()
        codes[kind] = events.failed(LmxError(kind, "x"))[-1]["response"]["error"]["code"]
    assert codes[ErrorKind.UPSTREAM_FAILED] == codes[ErrorKind.UNAVAILABLE] == "server_error"
    assert codes[ErrorKind.RATE_LIMITED] == "rate_limit_exceeded"
    assert codes[ErrorKind.CONTEXT_LENGTH_EXCEEDED] == "invalid_prompt"


def test_no_line_of_a_stream_is_cut_by_a_strange_line_end() -> None:
    data = server_sent([{"type": "x", "text": "a\u2028b\u0085c\nd"}]).decode()
    assert data.splitlines() == [
        "event: x",
        'data: {"type":"x","text":"a\\u2028b\\u0085c\\nd"}',
        "",
    ]
    assert json.loads(data.splitlines()[1].removeprefix("data: "))["text"] == "a\u2028b\u0085c\nd"
