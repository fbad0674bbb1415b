"""What is left of quotas, in both dialects' words."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from opta_lmx.api.ratelimit import (
    ACCOUNT,
    RateLimitHeaders,
    anthropic,
    moment,
    openai,
    span,
    tightest,
)
from opta_lmx.tenancy.windows import Level, Limit, Resource, Span
from tests.support.clocks import HandClock

NOW_S = 1_900_000_000.0


def level(resource: Resource, over: Span, most: int, used: int, reset_ms: int) -> Level:
    return Level(Limit("key", "k", resource, over, most), used, reset_ms)


LEVELS = [
    level("requests", "minute", 60, 10, 59_001),
    level("requests", "day", 100, 80, 86_399_000),
    level("prompt_tokens", "minute", 1000, 999, 20),
    level("output_tokens", "day", 500, 700, 360_000),
]


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (20, "20ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1001, "2s"),
        (59_001, "1m0s"),
        (360_000, "6m0s"),
        (86_400_000, "24h0m0s"),
        (3_661_000, "1h1m1s"),
    ],
)
def test_spans_are_written_as_openai_writes_them(ms: int, text: str) -> None:
    assert span(ms) == text


@given(st.integers(0, 10**9))
def test_no_span_is_told_too_short(ms: int) -> None:
    units = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    text, total, number = span(ms), 0, ""
    while text:
        if text[0].isdigit():
            number, text = number + text[0], text[1:]
            continue
        unit = "ms" if text.startswith("ms") else text[0]
        total, number, text = total + int(number) * units[unit], "", text[len(unit) :]
    assert ms <= total < ms + 1000


def test_moments_are_rfc_3339() -> None:
    assert moment(1_900_000_000_000) == "2030-03-17T17:46:40Z"
    assert moment(1_900_000_000_001) == "2030-03-17T17:46:41Z"


def test_the_tightest_window_is_told() -> None:
    assert tightest([]) is None
    assert tightest(LEVELS[:2]) is LEVELS[1]
    same = [level("requests", "minute", 5, 5, 10), level("requests", "day", 9, 9, 20)]
    assert tightest(same) is same[1]


def test_openai_is_told_of_requests_and_tokens() -> None:
    assert dict(openai(LEVELS)) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "20",
        "x-ratelimit-reset-requests": "23h59m59s",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert dict(openai(LEVELS[:1])).keys() == {
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    }


def test_anthropic_is_told_of_both_kinds_of_tokens() -> None:
    told = dict(anthropic(LEVELS, int(NOW_S * 1000)))
    assert told["anthropic-ratelimit-requests-remaining"] == "20"
    assert told["anthropic-ratelimit-input-tokens-limit"] == "1000"
    assert told["anthropic-ratelimit-input-tokens-remaining"] == "1"
    assert told["anthropic-ratelimit-input-tokens-reset"] == "2030-03-17T17:46:41Z"
    assert told["anthropic-ratelimit-output-tokens-remaining"] == "0"
    assert told["anthropic-ratelimit-output-tokens-reset"] == "2030-03-17T17:52:40Z"
    assert len(told) == 9


class _Account:
    def __init__(self, levels: list[Level]) -> None:
        self.levels = levels


@pytest.mark.parametrize("levels", [None, [], LEVELS])
def test_only_answers_to_those_with_quotas_have_headers(levels: list[Level] | None) -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if levels is not None:
            scope[ACCOUNT] = _Account(levels)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    scope: Any = {"type": "http", "path": "/v1/chat/completions"}
    asyncio.run(RateLimitHeaders(app, HandClock(NOW_S))(scope, receive, send))
    assert sent[0]["headers"][0] == (b"a", b"b")
    assert len(sent[0]["headers"]) == (7 if levels else 1)
    assert sent[1] == {"type": "http.response.body", "body": b"x"}
