import asyncio
import json
import socket
import time
from collections.abc import Callable

import pytest

from benchmarks.fleet.asking import TRIES, Asked, Server, pause_after, see_through
from benchmarks.fleet.dialects import Caller
from benchmarks.fleet.events import Counts, counts_of, read
from benchmarks.fleet.exchange import Request, Try, send
from benchmarks.fleet.script import Ask, Turn
from tests.support.answering import answering

ASK = Ask("completions", "", "", (), (Turn("user", "hi"),), "", 8, "s")
ANSWER = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"hel"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
    b"data: [DONE]\n\n"
)


def ok(body: bytes = ANSWER) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body


def refusal(status: int, *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status} No\r\n{head}Content-Length: 2\r\n\r\n{{}}".encode()


def ask_server(replies: Callable[[int], bytes], *, until: float = float("inf")) -> Asked:
    """Send one request to a server whose n-th reply is `replies(n)`."""
    seen = 0

    async def reply(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        assert body["model"] == "m"
        seen += 1
        writer.write(replies(seen))

    async def main() -> Asked:
        asked = Asked("a", "bot", "k", ASK)
        async with answering(reply) as url:
            target = Server(f"{url}/v1", "m")
            await see_through(asked, Caller("k"), target, timeout_s=10, until=until)
        return asked

    return asyncio.run(main())


def test_an_answer_is_read_and_timed() -> None:
    asked = ask_server(lambda _: ok())
    assert asked.served
    assert asked.last.text == "hello"
    assert asked.last.counts == Counts(5, 4, 2)
    assert len(asked.last.stamps) == 2
    assert asked.ttft is not None
    assert asked.last.sent <= asked.last.stamps[0] <= asked.last.end


def test_a_refusal_is_waited_out_in_full() -> None:
    asked = ask_server(lambda n: refusal(429, "Retry-After: 0.2") if n < 3 else ok())
    assert [each.status for each in asked.tries] == [429, 429, 200]
    waits = [b.sent - a.end for a, b in zip(asked.tries, asked.tries[1:], strict=False)]
    assert min(waits) >= 0.2
    assert asked.ttft is not None
    assert asked.ttft >= 0.4


def test_after_ten_tries_it_gives_up() -> None:
    asked = ask_server(lambda _: refusal(429, "retry-after: 0"))
    assert len(asked.tries) == TRIES == 10
    assert not asked.served
    assert asked.last.refused


def test_no_try_begins_after_the_end() -> None:
    asked = ask_server(lambda _: refusal(429, "Retry-After: 30"), until=time.perf_counter() + 0.3)
    assert len(asked.tries) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refusal(400), "http_400"),
        (b"nonsense\r\n\r\n", "protocol"),
    ],
)
def test_what_cannot_succeed_is_not_tried_again(reply: bytes, error: str) -> None:
    asked = ask_server(lambda _: reply)
    assert [each.error for each in asked.tries] == [error]


def test_a_cut_stream_and_an_error_within_one_are_failures() -> None:
    cut = ok(ANSWER[: ANSWER.index(b"data: [DONE]")])
    broken = ok(b'data: {"error":{"type":"server_error","message":"x"}}\n\n')
    asked = ask_server(lambda n: cut if n == 1 else broken, until=time.perf_counter() + 1.5)
    assert [each.error for each in asked.tries] == ["cut", "stream_error"]


def test_a_silent_server_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/x"
        found = asyncio.run(send(Request(url, {}, b"{}"), 0.2))
    assert found.error == "timeout"
    assert 0.2 <= found.end - found.sent < 5


def test_pauses() -> None:
    told = Try(0, 1, 429, 7.5, error="http_429")
    silent = Try(0, 1, 429, None, error="http_429")
    assert pause_after(told, 1) == pause_after(told, 9) == 7.5
    assert [pause_after(silent, n) for n in (1, 2, 6)] == [1, 2, 30]
    assert pause_after(told, 10) is None
    assert pause_after(Try(0, 1, 404, error="http_404"), 1) is None


# --- events


def text_of(*events: dict[str, object]) -> tuple[str, int, bool, str, Counts]:
    pieces = [read(json.dumps(event).encode()) for event in events]
    return (
        "".join(piece.text for piece in pieces),
        sum(piece.spoke for piece in pieces),
        pieces[-1].last,
        "".join(piece.error for piece in pieces),
        counts_of([piece.usage for piece in pieces if piece.usage is not None]),
    )


def test_responses_events() -> None:
    usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 7}, "output_tokens": 3}
    found = text_of(
        {"type": "response.created", "response": {"usage": None, "error": None}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.function_call_arguments.delta", "delta": "{"},
        {"type": "response.output_text.done", "text": "a"},
        {"type": "response.incomplete", "response": {"usage": usage, "error": None}},
    )
    assert found == ("a", 2, True, "", Counts(9, 7, 3))


def test_a_failed_response_is_an_error() -> None:
    error = {"code": "server_error", "message": "x"}
    found = text_of({"type": "response.failed", "response": {"usage": None, "error": error}})
    assert "server_error" in found[3]


def test_messages_events() -> None:
    start = {"input_tokens": 2, "cache_read_input_tokens": 7, "output_tokens": 0}
    end = {"input_tokens": 2, "cache_read_input_tokens": 7, "output_tokens": 4}
    found = text_of(
        {"type": "message_start", "message": {"usage": start, "content": []}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": end},
        {"type": "message_stop"},
    )
    assert found == ("b", 1, True, "", Counts(9, 7, 4))


def test_a_messages_error_is_an_error() -> None:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert "Overloaded" in text_of(body)[3]
