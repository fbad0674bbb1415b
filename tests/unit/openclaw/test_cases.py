import json
from dataclasses import replace

import pytest

from scripts.openclaw.cases import (
    ANSWERED,
    BUSY,
    KILLED,
    OVERFLOW,
    Call,
    Case,
    Outcome,
    call_of,
    final,
    judge,
)
from scripts.openclaw.client import Finished
from scripts.openclaw.instances import judge_instances
from scripts.openclaw.modes import CHAT, MESSAGES, RESPONSES, Dialect
from scripts.openclaw.recorder import Exchange

ANSWER = Finished(0, json.dumps({"status": "ok", "final": "Hello."}), "", 1.0)
GOOD = Call(200, True, True, None, begun=5.0, ended=6.0, text=b"...")
REFUSED = Call(429, False, False, "2", begun=1.0, ended=1.1, text=b"{}")
BROKEN = Call(200, True, False, None, begun=1.0, ended=2.0, text=b"...")
TOO_LONG = Call(
    400,
    False,
    False,
    None,
    begun=1.0,
    ended=1.1,
    text=b"This model's maximum context length is 4096 tokens. However, ...",
)
CALLING = Case("calling", "a-real-model", calls_tools=True)
FAILURE = {"status": "error", "error": {"kind": "context_overflow"}}
OVERFLOWN = Finished(1, json.dumps(FAILURE), "context overflow detected (attempt 1/3)", 1.0)


def test_all_four_courses_can_be_as_they_must_be() -> None:
    assert judge(ANSWERED, Outcome(ANSWER, [GOOD])) == []
    assert judge(BUSY, Outcome(ANSWER, [REFUSED, GOOD])) == []
    assert judge(KILLED, Outcome(ANSWER, [BROKEN, GOOD], restarts=1)) == []
    assert judge(KILLED, Outcome(ANSWER, [GOOD], restarts=1)) == []
    assert judge(CALLING, Outcome(ANSWER, [GOOD, GOOD])) == []
    assert judge(OVERFLOW, Outcome(OVERFLOWN, [TOO_LONG])) == []


@pytest.mark.parametrize(
    ("case", "outcome", "said"),
    [
        (ANSWERED, Outcome(ANSWER, []), "no model call"),
        (ANSWERED, Outcome(ANSWER, [GOOD, GOOD]), "more calls"),
        (ANSWERED, Outcome(ANSWER, [BROKEN]), "the last call ended"),
        (ANSWERED, Outcome(replace(ANSWER, status=None), [GOOD]), "no exit status in time"),
        (ANSWERED, Outcome(replace(ANSWER, out="{}"), [GOOD]), "not answered"),
        (BUSY, Outcome(ANSWER, [GOOD]), "answered with 200, not 429"),
        (BUSY, Outcome(ANSWER, [replace(REFUSED, retry_after=None), GOOD]), "Retry-After"),
        (BUSY, Outcome(ANSWER, [replace(REFUSED, retry_after="5"), GOOD]), "sooner"),
        (KILLED, Outcome(ANSWER, [BROKEN, GOOD]), "restarted 0 times"),
        (CALLING, Outcome(ANSWER, [GOOD, BROKEN, GOOD]), "call 2 ended"),
        (
            KILLED,
            Outcome(ANSWER, [replace(BROKEN, visible=False), GOOD], restarts=1),
            "not under way",
        ),
        (OVERFLOW, Outcome(OVERFLOWN, [replace(TOO_LONG, text=b"too long")]), "answered with 400"),
        (OVERFLOW, Outcome(OVERFLOWN, [replace(TOO_LONG, status=500)]), "answered with 500"),
        (OVERFLOW, Outcome(replace(OVERFLOWN, err=""), [TOO_LONG]), "did not take it"),
        (OVERFLOW, Outcome(replace(OVERFLOWN, out="{}"), [TOO_LONG]), "does not say"),
        (OVERFLOW, Outcome(replace(OVERFLOWN, status=2), [TOO_LONG]), "exit 2"),
    ],
)
def test_whatever_differs_is_named(case, outcome, said) -> None:
    problems = judge(case, outcome)
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize(
    ("dialect", "word", "end"),
    [
        (
            CHAT,
            b'{"delta":{"content":"a"},"finish_reason":null}',
            b'{"finish_reason":"stop"}\n\ndata: [DONE]',
        ),
        (
            RESPONSES,
            b'{"type":"response.output_text.delta","delta":"a"}',
            b'{"type":"response.incomplete"}',
        ),
        (MESSAGES, b'{"delta":{"type":"text_delta","text":"a"}}', b'{"type":"message_stop"}'),
    ],
)
def test_streams_are_read_as_far_as_they_came(dialect: Dialect, word: bytes, end: bytes) -> None:
    exchange = Exchange(status=200, begun=1.0, complete=True)
    exchange.reply += b'data: {"delta":{"role":"assistant","content":""},"finish_reason":null}\n\n'
    assert not call_of(exchange, dialect).visible
    exchange.reply += b"data: " + word + b"\n\n"
    call = call_of(exchange, dialect)
    assert (call.visible, call.finished) == (True, False)
    exchange.reply += b"data: " + end + b"\n\n"
    assert call_of(exchange, dialect).finished
    exchange.complete = False
    assert not call_of(exchange, dialect).finished
    exchange.left = True
    assert call_of(exchange, dialect).finished


def test_only_a_good_end_has_an_answer() -> None:
    assert final(ANSWER) == "Hello."
    for out in ("", "[]", '{"status": "error", "final": "x"}'):
        assert final(replace(ANSWER, out=out)) is None


def native(method: str, path: str, body: object, reply: object, status: int = 200) -> Exchange:
    text = json.dumps(body).encode() if body else b""
    exchange = Exchange(method, path, [], text, status=status, complete=True)
    exchange.reply += json.dumps(reply).encode()
    return exchange


EMPTY = native("GET", "/api/v1/models", None, {"models": [{"key": "m", "loaded_instances": []}]})
LISTED = {"models": [{"key": "m", "loaded_instances": [{"id": "m:1"}]}]}
LOADED = native(
    "POST", "/api/v1/models/load", {"model": "m"}, {"status": "loaded", "instance_id": "m:1"}
)
CHATTED = native("POST", "/v1/chat/completions", {"model": "m:1"}, {})


def test_the_provider_asks_the_instance_it_was_given() -> None:
    assert judge_instances([EMPTY, LOADED, CHATTED], must_load=True) == []
    listed = native("GET", "/api/v1/models", None, LISTED)
    assert judge_instances([listed, CHATTED], must_load=False) == []


def test_a_provider_that_was_not_understood_is_named() -> None:
    by_key = native("POST", "/v1/chat/completions", {"model": "m"}, {})
    failed = native("POST", "/api/v1/models/load", {"model": "m"}, {"status": "failed"}, 500)
    (problem,) = judge_instances([EMPTY, LOADED, by_key], must_load=True)
    assert "'m', not one of the instances ['m:1']" in problem
    assert "was not loaded" in judge_instances([EMPTY], must_load=True)[0]
    assert "not listed" in judge_instances([LOADED, CHATTED], must_load=True)[0]
    assert "answered with 500" in judge_instances([EMPTY, failed], must_load=True)[0]
