"""Chat over WebSocket with the real program and a real model, down to the orderly stop."""

import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.process import ServerProcess, running_server
from tests.support.starters import starter_settings
from tests.support.websocket import WsClient

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.mark.parametrize("model", ["starter", "starter:mlx"])
def test_the_answer_is_that_of_http(starter_server: ServerProcess, model: str) -> None:
    fields = {"model": model, "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    plain = starter_server.http.post(
        f"{starter_server.url}/v1/chat/completions", json=fields
    ).json()
    with WsClient(starter_server.url) as client:
        client.ask("a", **fields)
        frames = client.answer("a")
    text = "".join(frame["content"] for frame in frames if frame["type"] == "chat.token")
    assert "Paris" in text
    assert text == plain["choices"][0]["message"]["content"]
    assert frames[-1]["finish_reason"] == plain["choices"][0]["finish_reason"]
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert frames[-1]["usage"][count] == plain["usage"][count]


@pytest.mark.parametrize("model", ["starter", "starter:mlx"])
def test_a_required_tool_is_called(starter_server: ServerProcess, model: str) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    with WsClient(starter_server.url) as client:
        client.ask(
            "a",
            model=model,
            messages=[{"role": "user", "content": "How is the weather in Rome?"}],
            tools=[tool],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=60,
            temperature=0,
        )
        told = client.until("a", "chat.tool_call")["tool_call"]
        assert (told["name"], told["arguments"].replace(" ", "")) == ("weather", '{"city":"Rome"}')
        assert client.until("a")["finish_reason"] == "tool_calls"


def test_a_stop_signal_lets_running_answers_end(tmp_path: Path) -> None:
    with running_server(tmp_path, "--model", "starter", **starter_settings()) as server:
        client = WsClient(server.url)
        story = [{"role": "user", "content": "Tell a long story."}]
        client.ask("a", model="starter", messages=story, max_tokens=90, temperature=0)
        client.until("a", "chat.token")
        server.process.send_signal(signal.SIGTERM)
        refused = ""
        while not refused:
            client.ask("late", model="starter", max_tokens=1)
            end = client.hear()
            while end.get("request_id") != "late" or end["type"] not in ("chat.done", "chat.error"):
                assert (end["request_id"], end["type"]) != ("a", "chat.done"), "too short a story"
                end = client.hear()
            refused = end.get("error", {}).get("message", "")
        assert "shutting down" in refused
        assert client.until("a")["finish_reason"] in ("stop", "length")
        with pytest.raises(ConnectionClosed) as closed:
            client.hear()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert server.process.wait(30) == 0
