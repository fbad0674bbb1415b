"""Answers in Ollama's shapes: lines that join to the whole, calls told whole, real durations."""

import json
from typing import Any

import pytest

from opta_lmx.api.exchange import Choice, Outcome
from opta_lmx.api.ollama.models import parameter_size
from opta_lmx.api.ollama.render import OllamaRendering, Shape, chat_shape, generate_shape
from opta_lmx.api.values import timestamp
from opta_lmx.codec.deltas import CallArguments, CallStart, ReasoningDelta, TextDelta, collect
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import Accepted, Speech, TokenEvent, TopLogprob, Usage
from opta_lmx.serving.answering import AnswerEvent, Ended, Spoke
from opta_lmx.serving.run import Timing

ACCEPTED = Accepted("m", 3, 16, Speech())
DELTAS = [
    ReasoningDelta("let me"),
    ReasoningDelta(" see"),
    TextDelta("I will. "),
    CallStart(0, "c0", "add"),
    CallArguments(0, '{"a": '),
    CallArguments(0, "1}"),
    CallStart(1, "c1", "look"),
]


class Clock:
    """Half a second passes whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.5
        return self.now

    def now_ms(self) -> int:
        return 1_700_000_000_123

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


def rendering(shape: Shape = chat_shape) -> OllamaRendering:
    return OllamaRendering("m:latest", shape, Clock(), lambda: Timing(0.25, 0.5, 2.0))


def lines(made: OllamaRendering, events: list[AnswerEvent]) -> list[dict[str, Any]]:
    data = made.opened(ACCEPTED) + b"".join(made.event(event) for event in events)
    data += made.finished(Usage(3, 4, 2))
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def whole(made: OllamaRendering, finish: Any = "tool_calls", deltas: Any = DELTAS) -> Any:
    choice = Choice(collect(deltas), finish)
    return json.loads(made.whole(Outcome(ACCEPTED, (choice,), Usage(3, 4, 2))))


def test_lines_join_to_the_whole() -> None:
    told = lines(rendering(), [*(Spoke(0, delta) for delta in DELTAS), Ended(0, "tool_calls")])
    assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    messages = [line["message"] for line in told]
    body = whole(rendering())
    assert "".join(one["content"] for one in messages) == body["message"]["content"] == "I will. "
    thinking = "".join(one.get("thinking", "") for one in messages)
    assert thinking == body["message"]["thinking"] == "let me see"
    calls = [call for one in messages for call in one.get("tool_calls", [])]
    assert calls == body["message"]["tool_calls"]
    assert calls[0] == {"id": "c0", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}}
    assert calls[1]["function"] == {"index": 1, "name": "look", "arguments": {}}
    last = told[-1]
    assert {name: last[name] for name in body if name not in ("message", "total_duration")} == {
        name: body[name] for name in body if name not in ("message", "total_duration")
    }


def test_text_after_a_call_tells_the_call_first() -> None:
    events: list[AnswerEvent] = [
        Spoke(0, CallStart(0, "c", "f")),
        Spoke(0, CallArguments(0, "{}")),
        Spoke(0, TextDelta("and")),
    ]
    told = lines(rendering(), [*events, Ended(0, "tool_calls")])
    assert [bool(line["message"].get("tool_calls")) for line in told] == [False, True, False]


def test_a_call_that_was_cut_is_not_told() -> None:
    deltas = [TextDelta("x"), CallStart(0, "c", "f"), CallArguments(0, '{"a": ')]
    told = lines(rendering(), [*(Spoke(0, delta) for delta in deltas), Ended(0, "length")])
    assert all("tool_calls" not in line["message"] for line in told)
    assert told[-1]["done_reason"] == "length"
    assert "tool_calls" not in whole(rendering(), "length", deltas)["message"]


def test_durations_are_nanoseconds() -> None:
    body = whole(rendering())
    assert body["load_duration"] == 250_000_000
    assert body["prompt_eval_duration"] == 500_000_000
    assert body["eval_duration"] == 2_000_000_000
    assert body["total_duration"] == 500_000_000
    assert (body["prompt_eval_count"], body["eval_count"]) == (3, 4)
    assert body["prompt_eval_cached_count"] == 2
    assert body["created_at"] == "2023-11-14T22:13:20.123Z"
    assert body["done_reason"] == "stop"


def test_generate_says_response() -> None:
    made = rendering(generate_shape)
    told = lines(made, [Spoke(0, ReasoningDelta("t")), Spoke(0, TextDelta("a")), Ended(0, "stop")])
    assert [line["response"] for line in told] == ["", "", "a", ""]
    assert told[1]["thinking"] == "t"
    assert all("message" not in line for line in told)


def test_logprobs_stand_beside_their_text() -> None:
    token = TokenEvent(0, 1, "é".encode(), -0.5, (TopLogprob(1, -0.5, "é".encode()),))
    told = lines(rendering(), [Spoke(0, TextDelta("é"), (token,)), Ended(0, "stop")])
    entry = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    assert told[1]["logprobs"] == [{**entry, "top_logprobs": [entry]}]
    assert "logprobs" not in told[0]


def test_line_ends_of_other_alphabets_end_no_line() -> None:
    made = rendering()
    data = made.event(Spoke(0, TextDelta("a\u2028b\u0085c")))
    assert len(data.decode().splitlines()) == 1
    assert json.loads(data)["message"]["content"] == "a\u2028b\u0085c"


@pytest.mark.parametrize(
    ("kind", "status"), [(ErrorKind.INTERNAL, 500), (ErrorKind.UNAVAILABLE, 503)]
)
def test_a_failure_is_one_line(kind: ErrorKind, status: int) -> None:
    assert json.loads(rendering().failed(LmxError(kind, "gone"))) == {
        "error": "gone",
        "status": status,
    }


@pytest.mark.parametrize(
    ("count", "said"),
    [(134_515_008, "134.5M"), (7_600_000_000, "7.6B"), (1_500, "1.5K"), (12, "12")],
)
def test_sizes_as_people_say_them(count: int, said: str) -> None:
    assert parameter_size(count) == said


def test_times_are_utc() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
