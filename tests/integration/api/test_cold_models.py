"""A request to a model that is not there yet waits, or is told when to come back."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

HUGE = 400_000_000_000  # at the assumed rate, more than half an hour


def load(server: LiveServer, model: str) -> httpx.Response:
    return httpx.post(f"{server.url}/admin/models/load", json={"model": model}, timeout=30)


def ask(server: LiveServer, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)


def test_a_short_load_is_waited_for(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {"load_ms": 300}}) as server:
        assert ask(server, "m").status_code == 200


def test_a_long_load_is_refused_before_headers_and_goes_on(tmp_path: Path) -> None:
    scripts = {"m": {"weights_bytes": HUGE, "load_ms": 700}}
    with sim_server(tmp_path, scripts) as server:
        for stream in (True, False):
            reply = ask(server, "m", stream=stream)
            assert reply.status_code == 503, reply.text
            error = reply.json()["error"]
            assert (error["code"], error["type"]) == ("model_loading", "overloaded_error")
            assert reply.headers["retry-after"] == "60"
            assert error["retry_after"] == 60
        assert server.status("m")["waiting"] == 0
        wait_until(lambda: server.status("m")["state"] == "ready")
        assert ask(server, "m").status_code == 200
        assert server.resolver.loads == ["m"]


def test_what_was_measured_decides_the_next_time(tmp_path: Path) -> None:
    scripts = {"m": {"weights_bytes": HUGE}}
    for answer in (503, 200):
        with sim_server(tmp_path, scripts) as server:
            assert ask(server, "m").status_code == answer
            wait_until(lambda: server.status("m").get("state") == "ready")
            wait_until((tmp_path / "load-times.json").exists)


def test_no_wait_at_all_may_be_configured(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}, queue={"load_wait_s": 0.0}) as server:
        reply = ask(server, "m")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_loading")
        assert 1 <= int(reply.headers["retry-after"]) <= 60


@pytest.mark.parametrize(("load_wait_s", "answer"), [(0.0, 503), (60.0, 200)])
def test_a_restarting_model_is_waited_for_alike(
    tmp_path: Path, load_wait_s: float, answer: int
) -> None:
    script = {"die_at_step": 2}
    with sim_server(tmp_path, {"m": script}, queue={"load_wait_s": load_wait_s}) as server:
        assert load(server, "m").status_code == 200
        script.clear()
        script["load_ms"] = 1500
        assert ask(server, "m").json()["error"]["code"] == "worker_died"
        assert server.status("m")["state"] == "restarting"
        reply = ask(server, "m")
        assert reply.status_code == answer, reply.text
        if answer == 503:
            assert reply.json()["error"]["code"] == "model_loading"
            wait_until(lambda: server.status("m")["state"] == "ready")
            assert ask(server, "m").status_code == 200
