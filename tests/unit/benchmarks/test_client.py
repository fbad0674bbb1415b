import asyncio
import gc
import json
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import pytest

from benchmarks.arrivals import Outcome, Plan, drive
from benchmarks.client import Messages, Record, Target, encode_request, stream_chat
from benchmarks.measure import Meter, cpu_between, summarise
from benchmarks.prompts import CalibrationError, PromptMaker, calibrate, fit
from benchmarks.stats import percentile
from tests.support.answering import Reply, answering

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields}])


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event(choices=[], usage=counts)


def with_server(reply: Reply, use: Callable[[Target], Awaitable[object]]) -> object:
    """Run `use` against a server that answers every request by `reply`."""

    async def main() -> object:
        async with answering(reply) as url:
            return await use(Target(f"{url}/v1", "m", "secret"))

    return asyncio.run(main())


def fetch(reply: Reply, timeout_s: float = 10.0) -> Record:
    record = with_server(
        reply, lambda target: stream_chat(target, Messages("hi", "sys"), 3, timeout_s=timeout_s)
    )
    assert isinstance(record, Record)
    return record


def answer(data: bytes) -> Reply:
    async def reply(_body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return reply


async def echo(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
    """Stream as many tokens as asked for, one a turn of the loop, and count words as tokens."""
    messages = body["messages"]
    assert isinstance(messages, list)
    wanted = body["max_tokens"]
    assert isinstance(wanted, int)
    writer.write(HEAD + delta(role="assistant", content=""))
    for _ in range(wanted):
        writer.write(delta(content="x"))
        await asyncio.sleep(0)
    words = sum(len(message["content"].split()) for message in messages)
    writer.write(usage(5 + 2 * words, wanted) + b"data: [DONE]\n\n")


def test_the_request_is_what_the_endpoint_expects() -> None:
    target = Target("http://127.0.0.1:1234/v1", "some/model", "k")
    head, _, body = encode_request(target, Messages("hi", "sys"), 7).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert {"Host: 127.0.0.1:1234", "Authorization: Bearer k"} <= set(lines)
    assert f"Content-Length: {len(body)}" in lines
    sent = json.loads(body)
    assert sent["messages"] == [
        {"role": "system", "content": "sys"},
        {"role": "user", "content": "hi"},
    ]
    assert (sent["model"], sent["max_tokens"], sent["stream"]) == ("some/model", 7, True)
    assert sent["stream_options"] == {"include_usage": True}


def test_a_whole_stream_is_recorded() -> None:
    record = fetch(echo)
    assert (record.error, record.status, record.tokens, len(record.stamps)) == (None, 200, 3, 3)
    assert record.prompt_tokens == 5 + 2 * 2
    assert record.ttft is not None
    assert 0 < record.ttft <= record.end - record.start
    assert len(record.gaps) == 2
    assert not record.miscounted


def test_only_deltas_that_carry_something_count() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    data = delta(role="assistant", content="") + delta() + delta(reasoning_content="hm")
    data += delta(content=None, tool_calls=[call]) + event(choices=[{"delta": None}])
    record = fetch(answer(HEAD + data + b": ping\n\n" + usage(1, 2) + b"data: [DONE]\n\n"))
    assert len(record.stamps) == 2
    assert record.gaps == [0.0]


def test_usage_that_cannot_be_true_is_noticed() -> None:
    two = delta(content="a") + delta(content="b")
    assert fetch(answer(HEAD + two + usage(1, 1) + b"data: [DONE]\n\n")).miscounted
    assert fetch(answer(HEAD + two + b"data: [DONE]\n\n")).miscounted
    joined = fetch(answer(HEAD + two + usage(1, 9) + b"data: [DONE]\n\n"))
    assert (joined.miscounted, joined.tokens) == (False, 9)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nfull", "http_429"),
        (HEAD + delta(content="x"), "cut"),
        (HEAD + event(error={"message": "gone"}) + b"data: [DONE]\n\n", "stream_error"),
        (HEAD + b"data: {nonsense\n\n", "protocol"),
        (b"what\r\n\r\n", "protocol"),
        (b"", "cut"),
    ],
)
def test_failures_are_told_apart(data: bytes, error: str) -> None:
    record = fetch(answer(data))
    assert record.error == error
    assert record.end > record.start


def test_the_text_of_a_refusal_is_kept() -> None:
    data = b"HTTP/1.1 400 Bad\r\nContent-Length: 7\r\n\r\nno such"
    assert fetch(answer(data)).detail == "no such"


def test_a_silent_server_times_out() -> None:
    async def say_nothing(_body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await asyncio.Event().wait()

    assert fetch(say_nothing, timeout_s=0.1).error == "timeout"


@pytest.mark.parametrize("steps", range(8))
def test_whoever_gives_up_before_it_is_served_leaves_nothing_open(steps: int) -> None:
    async def never(_body: dict[str, object], _writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was served")

    with socket.socket() as caller:
        caller.setblocking(False)

        async def call_and_go(target: Target) -> None:
            caller.connect_ex(("127.0.0.1", urlsplit(target.url).port))
            for _ in range(steps):
                await asyncio.sleep(0)

        with_server(never, call_and_go)
        gc.collect()  # what is left open is a warning now, which is an error


def test_nobody_listening_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    target = Target(f"http://127.0.0.1:{port}/v1", "m")
    assert asyncio.run(stream_chat(target, Messages("hi"), 1)).error == "connect"


def test_only_plain_http_is_spoken() -> None:
    with pytest.raises(ValueError, match="http://"):
        asyncio.run(stream_chat(Target("https://127.0.0.1/v1", "m"), Messages("hi"), 1))


def test_calibration_finds_the_line_of_tokens_over_words() -> None:
    cost = with_server(echo, calibrate)
    assert cost == fit((8, 21), (200, 405))
    assert fit((8, 21), (200, 405)).words(105) == 50


@pytest.mark.parametrize("points", [((8, 0), (200, 0)), ((8, 9), (200, 9))])
def test_calibration_needs_prompt_tokens(points: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(CalibrationError):
        fit(*points)


def test_prompts_are_reproducible_and_share_their_system_turn() -> None:
    first, second = PromptMaker("s", 20, 5), PromptMaker("s", 20, 5)
    assert first.make(3) == second.make(3)
    assert first.make(3).user != first.make(4).user
    assert first.make(3).system == first.make(4).system
    assert len(first.make(3).system.split()) == 5
    assert PromptMaker("t", 20).make(3).user != first.make(3).user


@pytest.mark.parametrize("arrival", ["burst", "staggered"])
def test_every_request_of_a_plan_is_sent_within_its_concurrency(arrival: str) -> None:
    now = most = 0
    seen: list[str] = []

    async def count(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        seen.append(json.dumps(body["messages"]))
        await echo(body, writer)
        now -= 1

    plan = Plan(3, 7, 4, arrival=arrival, stagger_s=0.001)  # type: ignore[arg-type]
    outcome = with_server(count, lambda target: drive(target, plan, PromptMaker("s", 4)))
    result = summarise(outcome)  # type: ignore[arg-type]
    assert (result.requests, result.errors, result.tokens) == (7, {}, 28)
    assert len(set(seen)) == 7
    assert 1 <= most <= 3
    assert result.deltas_per_token == 1.0


def test_late_comers_meet_a_running_batch() -> None:
    running = 0
    met: list[int] = []

    async def slow(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        nonlocal running
        if body["max_tokens"] == 8:
            met.append(running)
            await echo(body, writer)
            return
        running += 1
        writer.write(HEAD)
        for _ in range(20):
            writer.write(delta(content="x"))
            await asyncio.sleep(0.002)
        writer.write(usage(1, 20) + b"data: [DONE]\n\n")
        running -= 1

    plan = Plan(4, 5, 20, arrival="busy", pause_s=0.01)
    outcome = with_server(slow, lambda target: drive(target, plan, PromptMaker("s", 4)))
    result = summarise(outcome)  # type: ignore[arg-type]
    assert len(met) == 5
    assert max(met) == 3
    assert result.ttft.count == 5
    assert result.errors == {}


def test_a_busy_batch_that_cannot_start_ends() -> None:
    refusal = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    plan = Plan(3, 2, 5, arrival="busy", pause_s=0.01)
    outcome = with_server(answer(refusal), lambda target: drive(target, plan, PromptMaker("s", 1)))
    result = summarise(outcome)  # type: ignore[arg-type]
    assert result.errors == {"http_503": 4}


def test_the_sums_of_a_run() -> None:
    fast = Record(10.0, 11.0, [10.1, 10.2, 10.4], 200, None, "", 5, 2, 3)
    slow = Record(10.5, 12.0, [11.0], 200, None, "", 7, 0, 1)
    refused = Record(10.0, 10.1, [], 429, "http_429")
    result = summarise(Outcome([fast, slow, refused], []))
    assert (result.requests, result.tokens, result.errors) == (3, 4, {"http_429": 1})
    assert result.wall_s == pytest.approx(2.0)
    assert result.tokens_per_s == pytest.approx(2.0)
    assert result.ms_per_token == pytest.approx(500.0)
    assert result.ttft.p50 == pytest.approx(percentile([100, 500], 50))
    assert result.itl.count == 2
    assert (result.prompt_tokens, result.cached_tokens) == (6.0, 1.0)


def test_cpu_between_two_moments_is_per_token() -> None:
    before, after = Meter(None), Meter(None)
    assert cpu_between(before, after, 10) is None
