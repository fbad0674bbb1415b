"""Models without room beside each other take turns; real workers, over HTTP."""

import os
import signal
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from opta_lmx.engine.runtime import ModelRuntime
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

GB = 10**9
TURN_S = 0.4
PATIENCE_S = 60.0
SCRIPTS: dict[str, dict[str, Any]] = {
    "a": {"needs_bytes": 6 * GB},
    "b": {"needs_bytes": 6 * GB},
    "slow": {"needs_bytes": 6 * GB, "step_ms": 40, "reply": "word " * 120},
    "endless": {"needs_bytes": 6 * GB, "step_ms": 10, "reply": "word " * 3900},
    "vectors": {"needs_bytes": 6 * GB, "kind": "embedding"},
    "held": {"needs_bytes": 3 * GB},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    memory = {"budget_bytes": 10 * GB, "pinned": ["held"], "swap_after_s": TURN_S}
    with sim_server(tmp_path_factory.mktemp("swaps"), SCRIPTS, memory=memory) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_loaded(server: LiveServer) -> Generator[None]:
    yield
    for status in server.app.engine.status():
        httpx.post(f"{server.url}/admin/models/unload", json={"model": status.id}, timeout=30)
    wait_until(lambda: not server.app.engine.memory().models, PATIENCE_S)


def ask(server: LiveServer, model: str, **fields: Any) -> httpx.Response:
    if "vectors" in model:
        body = {"model": model, "input": "Hi", **fields}
        return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=120)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)


class Stream:
    """A streamed answer that somebody reads to its end, or until it is enough."""

    def __init__(self, server: LiveServer, model: str) -> None:
        self._url = f"{server.url}/v1/chat/completions"
        messages = [{"role": "user", "content": "Hi"}]
        self._body = {"model": model, "messages": messages, "stream": True, "max_tokens": 3900}
        self._begun, self._enough = threading.Event(), threading.Event()
        self.words, self.last = 0, ""
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=120) as answer:
            for line in answer.iter_lines():
                if "word" in line:
                    self.words += line.count("word")
                    self._begun.set()
                self.last = line or self.last
                if self._enough.is_set():
                    return

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._begun.wait(PATIENCE_S)
        return self

    def read(self) -> None:
        """Wait for the end of the answer."""
        self._thread.join(120)

    def leave(self) -> None:
        """Read no more."""
        self._enough.set()
        self.read()

    def __exit__(self, *_: object) -> None:
        self.leave()
        assert not self._thread.is_alive()


def runtime_of(server: LiveServer, model: str) -> ModelRuntime:
    runtime = server.app.engine.find(model)
    assert runtime is not None
    return runtime


def evictions(server: LiveServer, reason: str = "") -> int:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    lines = [line for line in text.splitlines() if "model_evictions_total{" in line]
    wanted = f'reason="{reason}' if reason else "reason="
    return int(sum(float(line.split()[-1]) for line in lines if wanted in line))


def test_what_runs_ends_in_peace_and_then_the_other_has_the_room(server: LiveServer) -> None:
    with ThreadPoolExecutor(1) as pool, Stream(server, "slow") as long:
        pid = server.status("slow")["pid"]
        other = pool.submit(ask, server, "a")
        wait_until(lambda: server.status("a").get("waiting") == 1, PATIENCE_S)
        assert server.status("a")["state"] == "loading"
        assert server.status("slow")["pid"] == pid
        long.read()
        assert (long.words, long.last) == (120, "data: [DONE]")
        assert other.result(120).status_code == 200
    assert server.status("slow") == {}


def test_who_waits_behind_a_swap_is_served_when_the_model_is_back(server: LiveServer) -> None:
    before = evictions(server, "swap")
    with ThreadPoolExecutor(4) as pool, Stream(server, "endless") as long:
        runtime = runtime_of(server, "endless")
        other = pool.submit(ask, server, "a")
        wait_until(lambda: runtime.line.shut, PATIENCE_S)
        # These come too late for this turn: they wait, though slots are free.
        late = [pool.submit(ask, server, "endless", max_tokens=2) for _ in range(3)]
        wait_until(lambda: runtime.line.waiting == 3, PATIENCE_S)
        assert runtime.line.running == 1
        long.leave()
        assert other.result(120).status_code == 200
        assert [one.result(120).status_code for one in late] == [200] * 3
    assert server.app.engine.find("endless") is runtime
    assert runtime.restarts == 0
    assert evictions(server, "swap") == before + 2


def test_steady_streams_of_two_models_are_all_served_by_few_loads(server: LiveServer) -> None:
    before = evictions(server)

    def bot(model: str) -> list[int]:
        return [ask(server, model, max_tokens=2).status_code for _ in range(12)]

    def vectors(_: int) -> list[int]:
        return [ask(server, "vectors").status_code for _ in range(12)]

    with ThreadPoolExecutor(6) as pool:
        chats = [pool.submit(bot, model) for model in ("a", "b") * 2]
        other = [pool.submit(vectors, number) for number in range(2)]
        assert [one.result(200) for one in [*chats, *other]] == [[200] * 12] * 6
    # Each turn serves both bots of a model: never a load for every one of 72 requests. A model
    # whose bots happen to be between two requests goes for "memory", not by a swap.
    assert 2 <= evictions(server) - before < 72
    assert sum(one.restarts for one in server.app.engine.status()) == 0


def test_a_pinned_model_never_goes(server: LiveServer) -> None:
    assert ask(server, "held").status_code == 200
    pid = server.status("held")["pid"]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, server, model) for model in ("a", "b") * 2]
        assert [one.result(120).status_code for one in asked] == [200] * 4
    assert server.status("held")["pid"] == pid


def test_what_takes_longer_than_a_request_may_wait_says_when(tmp_path: Path) -> None:
    memory = {"budget_bytes": 10 * GB, "swap_after_s": 500.0}
    with sim_server(tmp_path, SCRIPTS, memory=memory) as server:
        with Stream(server, "endless"):
            reply = ask(server, "a")
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_loading")
            assert reply.headers["retry-after"] == "60"
        # Its turn comes all the same, and at once: nothing is left to be finished.
        wait_until(lambda: server.status("a").get("state") == "ready", PATIENCE_S)
        assert ask(server, "a").status_code == 200


def test_a_model_that_waits_for_room_can_be_unloaded(server: LiveServer) -> None:
    with ThreadPoolExecutor(1) as pool, Stream(server, "endless"):
        other = pool.submit(ask, server, "a")
        wait_until(lambda: server.status("a").get("waiting") == 1, PATIENCE_S)
        url = f"{server.url}/admin/models/unload"
        assert httpx.post(url, json={"model": "a"}, timeout=30).status_code == 200
        reply = other.result(60)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_unloaded")
    assert ask(server, "endless", max_tokens=1).status_code == 200
    assert {line.model for line in server.app.engine.memory().models} == {"endless"}


def test_a_worker_that_dies_while_it_finishes_takes_nobodys_turn(server: LiveServer) -> None:
    with ThreadPoolExecutor(2) as pool, Stream(server, "endless") as long:
        runtime = runtime_of(server, "endless")
        other = pool.submit(ask, server, "a")
        wait_until(lambda: runtime.line.shut, PATIENCE_S)
        late = pool.submit(ask, server, "endless", max_tokens=2)
        wait_until(lambda: runtime.line.waiting == 1, PATIENCE_S)
        os.kill(server.status("endless")["pid"], signal.SIGKILL)
        long.leave()
        assert other.result(120).status_code == 200
        assert late.result(120).status_code == 200
    memory = server.app.engine.memory()
    assert memory.committed_bytes == 6 * GB
    assert {line.model for line in memory.models} == {"endless"}
