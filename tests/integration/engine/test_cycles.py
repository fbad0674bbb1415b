"""Real models come and go: their memory returns, who is busy stays, and a crowd loads one once.

The quick forms run the tiny models for a few cycles; the slow one is ten cycles of real ones.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import procs
from opta_lmx.models.store import ModelStore
from tests.support.encoders import minilm, tiny_encoder
from tests.support.process import ServerProcess, running_server, wait_gone
from tests.support.starters import starter_path
from tests.support.tiny import tiny_gguf, tiny_llama
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.alone]

MOST_GROWTH = 0.03
CHAT = ("mlx", "gguf")
EMBEDDER = "vectors"
MODELS = (*CHAT, EMBEDDER)
CROWD = 20
TIGHT_BYTES = 250_000_000
"""Room for any of the tiny models, and for no two of the two that make text."""


def settings(root: Path, sources: dict[str, Path], **environment: str) -> dict[str, str]:
    """The environment of a server whose store holds these models, each on its own engine."""
    store = ModelStore(root)
    for name, source in sources.items():
        store.add(source, name)
    return {
        "LMX_MODELS__DIR": str(root),
        "LMX_ENGINE__THREADS": "1",
        "LMX_ENGINE__CONTEXT": "2048",
        "LMX_ENGINE__SLOTS": "2",
        # Nothing is to come back by itself.
        "LMX_MEMORY__PREFETCH": "false",
        **environment,
    }


def tiny_sources() -> dict[str, Path]:
    return {"mlx": tiny_llama(), "gguf": tiny_gguf(), EMBEDDER: tiny_encoder()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server with all the memory it wants."""
    home = tmp_path_factory.mktemp("cycles")
    with running_server(home, **settings(home / "store", tiny_sources())) as found:
        yield found


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=120)


def chat(server: ServerProcess, model: str, max_tokens: int = 4) -> httpx.Response:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": model, "messages": messages, "max_tokens": max_tokens}
    return post(server, "/v1/chat/completions", body)


def ask(server: ServerProcess, model: str) -> None:
    """Make the model do what it is for."""
    if model == EMBEDDER:
        reply = post(server, "/v1/embeddings", {"model": model, "input": "Hi"})
    else:
        reply = chat(server, model)
    assert reply.status_code == 200, reply.text


def metric(server: ServerProcess, name: str) -> dict[str, float]:
    """All of a metric's values, by their labels as they are written."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    found = re.findall(rf"^opta_lmx_{name}(\S*) (\S+)$", text, flags=re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def all_at_once(work: Callable[[str], object], models: tuple[str, ...] = MODELS) -> None:
    with ThreadPoolExecutor(len(models)) as pool:
        list(pool.map(work, models))


def cycle(server: ServerProcess) -> int:
    """Load every model, use it, unload it; what the server then has resident (bytes)."""
    all_at_once(server.load)
    pids = [model["pid"] for model in server.models().values()]
    assert len(set(pids)) == len(MODELS)
    all_at_once(lambda model: ask(server, model))
    loaded, children = procs.resident(server.process.pid)
    assert children > 0
    for model in MODELS:
        assert post(server, "/admin/models/unload", {"model": model}).status_code == 200
    for pid in pids:
        wait_gone(pid, 10)
    assert procs.sample(server.process.pid).pids == (server.process.pid,)
    memory = httpx.get(f"{server.url}/admin/status", timeout=30).json()["memory"]
    assert (memory["committed_bytes"], memory["models"]) == (0, [])
    left, children = procs.resident(server.process.pid)
    assert children == 0
    print(f"front {loaded / 1e6:.1f} MB with models, {left / 1e6:.1f} MB after")
    return left


def cycles(server: ServerProcess, count: int) -> None:
    """Hold each of some cycles to the memory after a first one, which imports and fills caches."""
    before = cycle(server)
    for number in range(count):
        left = cycle(server)
        assert left <= before * (1 + MOST_GROWTH), f"cycle {number}: {before} became {left} bytes"


def test_memory_returns_after_every_cycle(server: ServerProcess) -> None:
    cycles(server, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_returns_after_ten_cycles_of_real_models(tmp_path: Path) -> None:
    sources = {"mlx": tiny_llama(), "gguf": starter_path("starter"), EMBEDDER: minilm()}
    with running_server(tmp_path, **settings(tmp_path / "store", sources)) as server:
        cycles(server, 10)


@pytest.mark.parametrize("model", CHAT)
def test_a_crowd_of_first_requests_loads_a_model_once(server: ServerProcess, model: str) -> None:
    labels = f'{{model="{model}",reason="request"}}'
    before = metric(server, "model_loads_total").get(labels, 0)
    assert model not in server.models()
    with ThreadPoolExecutor(CROWD) as pool:
        replies = list(pool.map(lambda _: chat(server, model), range(CROWD)))
    assert [reply.status_code for reply in replies] == [200] * CROWD
    assert metric(server, "model_loads_total")[labels] == before + 1
    assert server.models()[model]["restarts"] == 0
    assert post(server, "/admin/models/unload", {"model": model}).status_code == 200


def test_a_busy_model_is_never_evicted(tmp_path: Path) -> None:
    budget = {
        "LMX_MEMORY__BUDGET_BYTES": str(TIGHT_BYTES),
        "LMX_MEMORY__SWAP_AFTER_S": "0",  # who finds no room is told so, and does not wait for it
    }
    environment = settings(tmp_path / "store", tiny_sources(), **budget)
    with running_server(tmp_path, **environment) as server:
        server.load(CHAT[0])
        for busy, other in (CHAT, CHAT[::-1]):
            pid = server.models()[busy]["pid"]
            evicted = metric(server, "model_evictions_total")
            stays_while_it_streams(server, busy, other)
            assert metric(server, "model_evictions_total") == evicted
            wait_until(lambda: not any(one["running"] for one in server.models().values()))
            # It is idle now, and goes.
            assert chat(server, other).status_code == 200
            assert set(server.models()) == {other}
            wait_gone(pid, 10)
            labels = f'{{model="{busy}",reason="room"}}'
            assert metric(server, "model_evictions_total") == {**evicted, labels: 1}


def stays_while_it_streams(server: ServerProcess, busy: str, other: str) -> None:
    """While one model answers, requests to another that has no room beside it are refused."""
    pid = server.models()[busy]["pid"]
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": busy, "messages": messages, "stream": True, "max_tokens": 1900}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        wait_until(lambda: server.models()[busy]["running"] == 1)
        for _ in range(5):
            reply = chat(server, other)
            assert (reply.status_code, error_of(reply)) == (503, "memory_busy"), reply.text
            assert int(reply.headers["retry-after"]) >= 1
            assert next(lines) is not None
        assert set(server.models()) == {busy}
        assert (server.models()[busy]["pid"], server.models()[busy]["running"]) == (pid, 1)


def test_a_busy_model_makes_room_after_its_turn(tmp_path: Path) -> None:
    budget = {"LMX_MEMORY__BUDGET_BYTES": str(TIGHT_BYTES), "LMX_MEMORY__SWAP_AFTER_S": "0.2"}
    with running_server(tmp_path, **settings(tmp_path / "store", tiny_sources(), **budget)) as one:
        one.load(CHAT[0])
        makes_room_after_its_turn(one, *CHAT)


def makes_room_after_its_turn(server: ServerProcess, busy: str, other: str) -> None:
    """What runs goes on, another model waits for its room, and who comes late is served too."""
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": busy, "messages": messages, "stream": True, "max_tokens": 1900}
    url = f"{server.url}/v1/chat/completions"
    with ThreadPoolExecutor(4) as pool:
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            wait_until(lambda: server.models()[busy]["running"] == 1, 60)
            waits = pool.submit(chat, server, other)
            wait_until(lambda: server.models().get(other, {}).get("state") == "loading", 60)
            late = [pool.submit(chat, server, busy) for _ in range(3)]
            assert next(lines) is not None
        assert waits.result(120).status_code == 200
        assert [one.result(120).status_code for one in late] == [200] * 3
    assert len(server.models()) == 1
    assert sum(model["restarts"] for model in server.models().values()) == 0


def error_of(reply: httpx.Response) -> str:
    return reply.json().get("error", {}).get("code", "")
