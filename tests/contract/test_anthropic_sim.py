"""The official `anthropic` SDK against scripted models: tools, thinking, waiting, and failing."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam, ToolParam

from opta_lmx.api.anthropic.signatures import hidden_thinking
from tests.support.clients import strict_anthropic
from tests.support.rawhttp import RawExchange
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

SCRIPTS: dict[str, dict[str, Any]] = {
    "m": {"reply": "one two three"},
    "tool": {
        "reply": 'I look. <tool_call> {"name": "look", "arguments": {"at": "sea"}} </tool_call>'
    },
    "mixed": {
        "reply": "<think>\nhm\n</think>\nFirst. "
        '<tool_call>\n{"name": "look", "arguments": {"at": "sea"}}\n</tool_call>\nThen. '
        '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>',
        "reasoning": "think",
        "exact": True,
    },
    "thinker": {"reply": "<think> so it is </think> Yes.", "reasoning": "think"},
    "late": {"load_ms": 1500},
    "slow": {"reply": "word " * 2000, "step_ms": 10},
    "mortal": {"reply": "word " * 40, "step_ms": 5, "die_at_step": 6},
}
ASKED: list[MessageParam] = [{"role": "user", "content": "hi"}]
TOOL: ToolParam = {"name": "look", "input_schema": {"type": "object"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    with sim_server(
        home,
        SCRIPTS,
        slots=1,
        max_waiting=0,
        server={"keepalive_s": 1.0, "prepare_before_headers_s": 0.2},
    ) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with strict_anthropic(server.url, timeout_s=30) as sdk:
        yield sdk


def both(client: anthropic.Anthropic, model: str, **fields: Any) -> anthropic.types.Message:
    """The plain answer, checked to be the streamed one."""
    plain = client.messages.create(model=model, messages=ASKED, max_tokens=64, **fields)
    with client.messages.stream(model=model, messages=ASKED, max_tokens=64, **fields) as stream:
        whole = stream.get_final_message()

    def shown(block: Any) -> dict[str, Any]:
        return {key: value for key, value in block.model_dump().items() if key != "id"}

    assert [shown(block) for block in whole.content] == [shown(block) for block in plain.content]
    assert whole.stop_reason == plain.stop_reason
    assert whole.usage.output_tokens == plain.usage.output_tokens
    return plain


def test_text_and_a_tool_call(client: anthropic.Anthropic) -> None:
    answer = both(client, "tool", tools=[TOOL])
    text, call = answer.content
    assert (text.type, answer.stop_reason) == ("text", "tool_use")
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("look", {"at": "sea"})
    assert call.id.startswith("toolu_")
    assert call.id.removeprefix("toolu_").isalnum()


def test_blocks_keep_the_order_they_were_said_in(client: anthropic.Anthropic) -> None:
    answer = both(client, "mixed", tools=[TOOL])
    kinds = [block.type for block in answer.content]
    assert kinds == ["thinking", "text", "tool_use", "text", "tool_use"]
    one: Any = {"type": "auto", "disable_parallel_tool_use": True}
    answer = both(client, "mixed", tools=[TOOL], tool_choice=one)
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "text"]


@pytest.mark.parametrize("stream", [True, False])
def test_the_tool_runner_goes_on_without_a_held_conversation(
    client: anthropic.Anthropic, stream: bool
) -> None:
    asked: list[str] = []

    @anthropic.beta_tool
    def look(at: str) -> str:
        """Look somewhere."""
        asked.append(at)
        return "blue"

    options: Any = {"stream": True} if stream else {}
    runner = client.beta.messages.tool_runner(
        model="tool", messages=ASKED, max_tokens=64, tools=[look], max_iterations=2, **options
    )
    for answer in runner:
        told = answer.get_final_message() if stream else answer
        assert told.stop_reason == "tool_use"
    assert asked == ["sea", "sea"]


def test_thinking_is_a_block_of_its_own(client: anthropic.Anthropic) -> None:
    answer = both(client, "thinker", thinking={"type": "adaptive"})
    thinking, text = answer.content
    assert thinking.type == "thinking"
    assert "so it is" in thinking.thinking
    assert thinking.signature
    assert text.type == "text"
    assert "think" not in text.text
    details = answer.usage.output_tokens_details
    assert details is not None
    assert details.thinking_tokens > 0
    hidden = both(client, "thinker", thinking={"type": "adaptive", "display": "omitted"})
    left_out = hidden.content[0]
    assert left_out.type == "thinking"
    assert left_out.thinking == ""
    assert hidden_thinking(left_out.signature) == thinking.thinking
    replayed = client.messages.create(
        model="m",
        max_tokens=5,
        messages=[*ASKED, {"role": "assistant", "content": hidden.content}, *ASKED],
    )
    assert replayed.stop_reason


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    answer = both(client, "m", stop_sequences=["two"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "two")
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == "one "


def test_an_empty_answer_has_no_blocks(client: anthropic.Anthropic) -> None:
    assert both(client, "m", stop_sequences=["one"]).content == []


def test_counting_leaves_the_line(client: anthropic.Anthropic, server: LiveServer) -> None:
    for _ in range(3):
        assert client.messages.count_tokens(model="m", messages=ASKED).input_tokens == 9
    status = server.status("m")
    assert (status["running"], status["waiting"]) == (0, 0)


def test_a_stream_opens_while_its_model_loads(server: LiveServer) -> None:
    body = {"model": "late", "messages": ASKED, "max_tokens": 9, "stream": True}
    exchange = RawExchange(server.url, "/v1/messages", body)
    early = exchange.read_until(b'"type":"ping"')
    assert b"event: message_start" in early
    assert server.status("late")["state"] == "loading"
    everything = exchange.read_until(b"message_stop")
    exchange.hang_up()
    assert everything.count(b"event: message_start") == 1
    assert everything.count(b"event: ping") >= 2
    assert b'"input_tokens":9' in everything.rpartition(b"message_delta")[2]


def test_the_sdk_bears_a_late_model(client: anthropic.Anthropic, server: LiveServer) -> None:
    httpx.post(f"{server.url}/admin/models/unload", json={"model": "late"}, timeout=30)
    with client.messages.stream(model="late", messages=ASKED, max_tokens=9) as stream:
        whole = stream.get_final_message()
    assert whole.usage.input_tokens == 9
    assert whole.stop_reason == "end_turn"


def test_a_full_line_is_a_rate_limit(client: anthropic.Anthropic, server: LiveServer) -> None:
    body = {"model": "slow", "messages": ASKED, "max_tokens": 2000, "stream": True}
    running = RawExchange(server.url, "/v1/messages", body)
    running.read_until(b"word")
    waiting = RawExchange(server.url, "/v1/messages", body)
    wait_until(lambda: server.status("slow")["waiting"] == 1)
    for ask in (client.messages.create, client.messages.count_tokens):
        limit: Any = {"max_tokens": 5} if ask == client.messages.create else {}
        with pytest.raises(anthropic.RateLimitError) as full:
            ask(model="slow", messages=ASKED, **limit)
        assert full.value.type == "rate_limit_error"
        assert int(full.value.response.headers["retry-after"]) >= 1
    waiting.hang_up()
    running.hang_up()


def test_a_server_that_stops_is_overloaded(client: anthropic.Anthropic, server: LiveServer) -> None:
    server.app.serving.draining = True
    try:
        with pytest.raises(anthropic.APIStatusError) as refused:
            client.messages.create(model="m", messages=ASKED, max_tokens=5)
    finally:
        server.app.serving.draining = False
    assert (refused.value.status_code, refused.value.type) == (529, "overloaded_error")
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_a_crash_in_mid_stream_is_told_in_words_that_are_retried_on(
    client: anthropic.Anthropic,
) -> None:
    with (
        pytest.raises(anthropic.APIStatusError, match=r"Overloaded|Internal server error"),
        client.messages.stream(model="mortal", messages=ASKED, max_tokens=64) as stream,
    ):
        stream.until_done()


def test_headers_of_anthropics_clients_are_taken(server: LiveServer) -> None:
    reply = httpx.post(
        f"{server.url}/v1/messages?beta=true",
        json={"model": "m", "messages": ASKED, "max_tokens": 5},
        headers={
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "prompt-caching-2024-07-31,interleaved-thinking-2025-05-14",
            "x-api-key": "sk-x",
            "x-request-id": "mine",
        },
    )
    assert reply.status_code == 200
    assert reply.headers["request-id"] == "mine"


def test_only_wrong_paths_and_methods_have_other_statuses(server: LiveServer) -> None:
    for method, path, status in (
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/messages/batches", 404),
    ):
        reply = httpx.request(method, f"{server.url}{path}")
        assert reply.status_code == status
        assert reply.json()["error"]["type"] == "not_found_error"
