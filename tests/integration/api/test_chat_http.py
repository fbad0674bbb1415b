"""Chat over a real socket, on scripted models."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.rawhttp import RawExchange
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

LONG = "word " * 5000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    scripts: dict[str, dict[str, Any]] = {
        "m": {},
        "untouched": {},
        "org/model": {},
        "slow": {"reply": LONG, "step_ms": 5},
        "thinking": {"prefill_ms_per_token": 400, "reply": "done"},
        "sleepy": {"load_ms": 1500},
        "broken": {"fail_load": "bad weights"},
        "mortal": {"reply": LONG, "step_ms": 5},
        "stillborn": {"prefill_ms_per_token": 400},
    }
    sections = {
        "server": {"keepalive_s": 1, "prepare_before_headers_s": 0.3, "body_limit_bytes": 65536},
        "engine": {"restart_backoff_s": 0.05},
    }
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, scripts, **sections) as running:
        yield running


def ask(server: LiveServer, model: str = "m", **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)


def events(text: str) -> list[Any]:
    blocks = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [block if block == "[DONE]" else json.loads(block) for block in blocks]


def until(server: LiveServer, model: str, field: str, value: Any, timeout_s: float = 10) -> float:
    began = time.monotonic()
    while server.status(model).get(field) != value:
        assert time.monotonic() - began < timeout_s, server.status(model)
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_plain_answer_is_complete_and_counted(server: LiveServer) -> None:
    reply = ask(server)
    assert reply.status_code == 200
    assert reply.headers["x-request-id"].startswith("req-")
    answer = reply.json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "one two three four ",
        "refusal": None,
    }
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 5


def test_streamed_and_plain_answers_are_equal(server: LiveServer) -> None:
    reply = ask(server, stream=True, stream_options={"include_usage": True})
    chunks = events(reply.text)
    assert chunks.pop() == "[DONE]"
    usage = chunks.pop()
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 5)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == "one two three four "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stop_string_ends_the_answer_and_the_generation(server: LiveServer) -> None:
    reply = ask(server, "slow", stop=["rd wo"], max_tokens=4000).json()
    assert reply["choices"][0]["message"]["content"] == "wo"
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] <= 3
    assert until(server, "slow", "running", 0) < 1


@pytest.mark.parametrize("path", ["org/model", "org%2Fmodel"])
def test_ids_with_slashes_can_be_asked_for(server: LiveServer, path: str) -> None:
    assert ask(server, "org/model").status_code == 200
    reply = httpx.get(f"{server.url}/v1/models/{path}")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


def test_silence_is_filled_with_no_op_chunks(server: LiveServer) -> None:
    reply = ask(server, "thinking", stream=True)
    chunks = events(reply.text)
    empty = [c for c in chunks[1:-1] if c["choices"][0]["delta"] == {"content": ""}]
    assert len(empty) >= 2
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-1])
    assert text == "done "


def test_a_slow_load_sends_headers_and_role_first(server: LiveServer) -> None:
    exchange = RawExchange(
        server.url,
        "/v1/chat/completions",
        {"model": "sleepy", "messages": [{"role": "user", "content": "x"}], "stream": True},
    )
    began = time.monotonic()
    exchange.read_until(b'"role":"assistant"', 1.2)
    assert time.monotonic() - began < 1.2
    exchange.read_until(b"[DONE]")
    exchange.hang_up()


def test_a_model_that_cannot_load_is_a_typed_error(server: LiveServer) -> None:
    reply = ask(server, "broken")
    assert reply.status_code == 400
    assert "bad weights" in reply.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slot(server: LiveServer, stream: bool) -> None:
    httpx.post(f"{server.url}/admin/models/load", json={"model": "slow"}, timeout=30)
    body = {"model": "slow", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    exchange = RawExchange(server.url, "/v1/chat/completions", body)
    until(server, "slow", "running", 1)
    if stream:
        exchange.read_until(b"word")
    exchange.hang_up()
    assert until(server, "slow", "running", 0) < 1


def test_a_client_that_hangs_up_before_the_first_token_frees_its_slot(server: LiveServer) -> None:
    httpx.post(f"{server.url}/admin/models/load", json={"model": "thinking"}, timeout=30)
    body = {"model": "thinking", "messages": [{"role": "user", "content": "x"}], "stream": True}
    exchange = RawExchange(server.url, "/v1/chat/completions", body)
    exchange.read_until(b'"role"')
    exchange.hang_up()
    until(server, "thinking", "running", 0)


def test_a_death_in_mid_stream_is_a_typed_event_not_text(server: LiveServer) -> None:
    body = {"model": "mortal", "messages": [{"role": "user", "content": "x"}], "stream": True}
    exchange = RawExchange(server.url, "/v1/chat/completions", body)
    exchange.read_until(b"word")
    os.kill(server.status("mortal")["pid"], signal.SIGKILL)
    text = exchange.read_until(b"0\r\n\r\n", 2).decode()
    error = [c for c in events(text) if "error" in c][-1]["error"]
    assert (error["type"], error["code"]) == ("server_error", "worker_died")
    assert '"finish_reason":"stop"' not in text
    exchange.hang_up()
    until(server, "mortal", "state", "ready")


def test_two_deaths_before_the_first_byte_are_a_500_in_the_envelope(server: LiveServer) -> None:
    replies: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: replies.append(ask(server, "stillborn")))
    thread.start()
    for _ in range(2):
        until(server, "stillborn", "state", "ready")
        until(server, "stillborn", "running", 1)
        killed = server.status("stillborn")["pid"]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda pid=killed: server.status("stillborn").get("pid") != pid)
    thread.join(10)
    assert replies[0].status_code == 500
    assert replies[0].json()["error"]["code"] == "worker_died"
    until(server, "stillborn", "state", "ready")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{not json", 400, None),
        (b"[]", 400, None),
        (b'{"model": "m"}', 400, "messages"),
        (b'{"messages": []}', 400, "model"),
        (b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}', 404, "model"),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
            400,
            None,
        ),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1e309}',
            400,
            None,
        ),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
            400,
            "max_tokens",
        ),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "logit_bias": {"x": 5}}',  # noqa: E501  (one body)
            400,
            "logit_bias",
        ),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "tempratur": 1}',
            400,
            "tempratur",
        ),
        (b"x" * 70_000, 413, None),
    ],
)
def test_bad_requests_get_typed_errors(
    server: LiveServer, body: bytes, status: int, param: str | None
) -> None:
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert all((error["message"], error["code"], error["type"]))
    if param:
        assert error["param"] == param
    assert server.status("m").get("waiting", 0) == 0


def test_an_invalid_request_loads_nothing(server: LiveServer) -> None:
    assert ask(server, "untouched", temperature=-1).status_code == 400
    assert server.status("untouched") == {}
    assert ask(server, "untouched").status_code == 200
    assert server.status("untouched")["state"] == "ready"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405)],
)
def test_unknown_paths_and_methods_use_the_envelope(
    server: LiveServer, method: str, path: str, status: int
) -> None:
    reply = httpx.request(method, f"{server.url}{path}")
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_operators_can_look_load_and_unload(server: LiveServer) -> None:
    loaded = httpx.post(f"{server.url}/admin/models/load", json={"model": "m"}, timeout=30)
    assert loaded.json()["state"] == "ready"
    status = httpx.get(f"{server.url}/admin/status").json()
    row = next(model for model in status["models"] if model["id"] == "m")
    assert (row["state"], row["slots"], row["running"]) == ("ready", 4, 0)
    assert row["rss_bytes"] > 1_000_000
    gone = httpx.post(f"{server.url}/admin/models/unload", json={"model": "m"}, timeout=30)
    assert gone.json() == {"model": "m", "state": "unloaded"}
    again = httpx.post(f"{server.url}/admin/models/unload", json={"model": "m"})
    assert (again.status_code, again.json()["error"]["code"]) == (404, "model_not_loaded")
    wrong = httpx.post(f"{server.url}/admin/models/load", json={"model": "m", "bakend": "mlx"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "bakend")


def test_health_readiness_and_metrics_answer(server: LiveServer) -> None:
    assert httpx.get(f"{server.url}/healthz").json()["status"] == "ok"
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    ask(server)
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'opta_lmx_requests_total{code="200",route="/v1/chat/completions"}' in metrics
    assert 'opta_lmx_model_loaded{model="m"} 1.0' in metrics
