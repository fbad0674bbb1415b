"""Memory over HTTP: who is unloaded for whom, who stays, and what is refused with numbers."""

import asyncio
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from opta_lmx.app import build
from opta_lmx.config.settings import Settings
from opta_lmx.server import Server
from tests.support.asynchronous import in_loop
from tests.support.server import LiveServer, sim_server
from tests.support.sim import SimResolver
from tests.support.waiting import until, wait_until

GB = 10**9
SCRIPTS: dict[str, dict[str, Any]] = {
    "a": {"needs_bytes": 6 * GB},
    "b": {"needs_bytes": 6 * GB},
    "slow": {"needs_bytes": 6 * GB, "step_ms": 20, "reply": "word " * 2000},
    "held": {"needs_bytes": 3 * GB},
    "huge": {"needs_bytes": 11 * GB},
    "brief": {"needs_bytes": GB, "ttl_s": 0.2},
    "more": {"needs_bytes": 2 * GB, "takes_bytes": 8 * GB},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    memory = {"budget_bytes": 10 * GB, "pinned": ["held"], "swap_after_s": 0.0}
    with sim_server(tmp_path_factory.mktemp("memory"), SCRIPTS, memory=memory) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_loaded(server: LiveServer) -> Generator[None]:
    yield
    for status in server.app.engine.status():
        httpx.post(f"{server.url}/admin/models/unload", json={"model": status.id}, timeout=30)
    wait_until(lambda: not lines(server))


def ask(server: LiveServer, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)


def memory(server: LiveServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/admin/status", timeout=30).json()["memory"]
    return found


def lines(server: LiveServer) -> dict[str, dict[str, Any]]:
    return {line["model"]: line for line in memory(server)["models"]}


def metric(server: LiveServer, name: str, **labels: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    start = f"opta_lmx_{name}{{{inside}}} " if labels else f"opta_lmx_{name} "
    found = [line for line in text.splitlines() if line.startswith(start)]
    return float(found[0].split()[-1]) if found else 0.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_idle_model_makes_room_and_its_process_is_gone_before(server: LiveServer) -> None:
    before = metric(server, "model_evictions_total", model="a", reason="room")
    assert ask(server, "a").status_code == 200
    pid = server.status("a")["pid"]
    assert alive(pid)
    assert ask(server, "b").status_code == 200
    assert not alive(pid)
    assert server.status("a") == {}
    found = memory(server)
    assert (found["budget_bytes"], found["free_bytes"]) == (10 * GB, 4 * GB)
    assert [line["model"] for line in found["models"]] == ["b"]
    assert metric(server, "model_evictions_total", model="a", reason="room") == before + 1
    assert metric(server, "model_memory_bytes", model="b") == 6 * GB
    assert metric(server, "memory_free_bytes") == 4 * GB


def test_a_busy_model_stays_and_who_wants_its_room_is_told_when_to_come_back(
    server: LiveServer,
) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30) as answer:
        chunks = answer.iter_lines()
        next(chunks)
        wait_until(lambda: server.status("slow")["running"] == 1)
        pid = server.status("slow")["pid"]
        reply = ask(server, "a")
        assert reply.status_code == 503, reply.text
        error = reply.json()["error"]
        assert error["code"] == "memory_busy"
        assert error["message"] == (
            "Model 'a' needs 6.0 GB of memory; 4.0 GB of 10.0 GB are free and idle models could "
            "free 0 bytes. In use: slow."
        )
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert lines(server)["slow"]["users"] == 1
        assert next(chunks) is not None
        assert server.status("slow")["pid"] == pid
    wait_until(lambda: not server.status("slow")["running"])
    assert ask(server, "a").status_code == 200
    assert not alive(pid)


def test_a_pinned_model_stays_idle_or_not(server: LiveServer) -> None:
    assert ask(server, "held").status_code == 200
    assert lines(server)["held"]["pinned"]
    for model in ("a", "b"):
        assert ask(server, model).status_code == 200
    assert set(lines(server)) == {"held", "b"}
    assert server.resolver.loads.count("held") == 1


def test_what_can_never_fit_is_refused_with_numbers(server: LiveServer) -> None:
    for _ in range(2):
        reply = ask(server, "huge")
        assert reply.status_code == 507
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == ("model_too_large", "model")
        assert "needs 11.0 GB of memory; the budget is 10.0 GB" in error["message"]
        assert "retry-after" not in reply.headers
    load = httpx.post(f"{server.url}/admin/models/load", json={"model": "huge"}, timeout=30)
    assert load.status_code == 507
    assert server.status("huge") == {}
    assert not lines(server)


def test_a_model_that_was_idle_for_too_long_goes(server: LiveServer) -> None:
    assert ask(server, "brief").status_code == 200
    pid = server.status("brief")["pid"]
    wait_until(lambda: not alive(pid))
    assert server.status("brief") == {}
    assert ask(server, "brief").status_code == 200


def test_what_was_measured_counts(server: LiveServer) -> None:
    for model in ("held", "more"):
        assert ask(server, model).status_code == 200
    # Together they turn out to take more than there is: who is idle and not pinned goes,
    wait_until(lambda: "more" not in lines(server))
    assert metric(server, "model_evictions_total", model="more", reason="overdraft") == 1
    # and does not come back before there is room for what it truly takes.
    reply = ask(server, "more")
    assert reply.status_code == 507
    assert "needs 8.0 GB of memory" in reply.json()["error"]["message"]
    httpx.post(f"{server.url}/admin/models/unload", json={"model": "held"}, timeout=30)
    assert ask(server, "more").status_code == 200
    line = lines(server)["more"]
    assert (line["measured"], line["bytes"]) == (True, 8 * GB)


def test_a_request_may_say_how_long_its_model_stays(server: LiveServer) -> None:
    def tell(**fields: Any) -> None:
        body = {"model": "a", "prompt": "Hi", "stream": False, **fields}
        reply = httpx.post(f"{server.url}/api/generate", json=body, timeout=30)
        assert reply.status_code == 200, reply.text

    tell()
    assert server.status("a")["expires_s"] is None
    tell(keep_alive="1h")
    assert 3590 < server.status("a")["expires_s"] <= 3600
    tell()  # who says nothing changes nothing
    assert 3590 < server.status("a")["expires_s"] <= 3600
    tell(keep_alive=-1)
    assert server.status("a")["expires_s"] is None
    assert ask(server, "a", ttl=60).status_code == 200  # LM Studio's word for it
    assert 50 < server.status("a")["expires_s"] <= 60
    refused = ask(server, "a", ttl=-1)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "ttl")
    body = {"model": "a", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    other = httpx.post(f"{server.url}/v1/messages", json={**body, "ttl": 1}, timeout=30)
    assert other.status_code == 400
    assert 50 < server.status("a")["expires_s"] <= 60
    tell(keep_alive="100ms")
    wait_until(lambda: server.status("a") == {})


@in_loop
async def test_what_is_kept_warm_waits_for_the_models_that_were_named(tmp_path: Path) -> None:
    memory = {"budget_bytes": 10 * GB, "warm": ["brief", "b"]}
    settings = Settings.model_validate({"memory": memory, "logging": {"level": "error"}})
    resolver = SimResolver(tmp_path / "logs", SCRIPTS)
    app = build(settings, tmp_path, [], resolver)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(Server(app, listener, ["a"], 1.0, 1 << 20).run())
        await until(lambda: len(resolver.loads) >= 2 or running.done())
        assert resolver.loads == ["a", "brief"]  # and b has no room
        await until(lambda: all(one.state == "ready" for one in app.engine.memory().models))
        signal.raise_signal(signal.SIGTERM)
        await running
