"""Models that crash, or do not work, are left alone until they are reset; loaded ones come back."""

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, running_server, start_server, wait_gone
from tests.support.tiny import tiny_gguf, tiny_llama, write_gguf
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

ENV = {
    "LMX_ENGINE__THREADS": "1",
    "LMX_ENGINE__RESTART_BACKOFF_S": "0.05",
    "LMX_ENGINE__MAX_RESTARTS": "1",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models that work and two whose weights are no numbers."""
    root = tmp_path_factory.mktemp("models")
    broken = shutil.copytree(tiny_llama(), root / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = np.full_like(weights["model.norm.weight"], np.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "mlx"})
    write_gguf(root / "broken.gguf", folder=broken)
    store = ModelStore(root / "store")
    store.sweep()
    store.add(tiny_gguf(), "g")
    store.add(tiny_llama(), "m")
    store.add(root / "broken.gguf", "nan-g")
    store.add(broken, "nan-m")
    return root / "store"


@pytest.fixture
def env(models: Path) -> dict[str, str]:
    return {**ENV, "LMX_MODELS__DIR": str(models)}


def ask(server: ServerProcess, model: str, **fields: Any) -> httpx.Response:
    message = {"role": "user", "content": "Tell me."}
    body = {"model": model, "messages": [message], "max_tokens": 3, **fields}
    return server.http.post(f"{server.url}/v1/chat/completions", json=body)


def code(reply: httpx.Response) -> str:
    return reply.json()["error"]["code"]


def reset(server: ServerProcess, model: str) -> httpx.Response:
    return server.http.post(f"{server.url}/admin/models/{model}/reset")


def status(server: ServerProcess) -> dict[str, Any]:
    return server.http.get(f"{server.url}/admin/status").json()


def state(server: ServerProcess, model: str) -> str:
    return server.models().get(model, {}).get("state", "")


def readiness(server: ServerProcess) -> tuple[int, int, list[str]]:
    reply = server.http.get(f"{server.url}/readyz")
    return reply.status_code, reply.json()["models_loaded"], reply.json()["reasons"]


@contextlib.contextmanager
def started(home: Path, *arguments: str, **environment: str) -> Generator[ServerProcess]:
    """A server that listens, ready or not."""
    server = start_server(home, *arguments, **environment)
    try:
        server.wait_listening()
        yield server
    finally:
        server.http.close()
        server.process.kill()
        server.process.wait()


def is_state(server: ServerProcess, model: str, wanted: str) -> Callable[[], bool]:
    return lambda: state(server, model) == wanted


def kill_worker(server: ServerProcess, model: str) -> None:
    wait_until(is_state(server, model, "ready"), 30)
    os.kill(server.models()[model]["pid"], signal.SIGKILL)


def kill_front(server: ServerProcess) -> None:
    pids = [model["pid"] for model in server.models().values() if model["pid"]]
    server.process.kill()
    server.process.wait()
    for pid in pids:
        wait_gone(pid, 5)


def crash_until_quarantined(server: ServerProcess, model: str) -> None:
    for _ in range(2):
        kill_worker(server, model)
        wait_until(lambda: state(server, model) != "ready")
    wait_until(is_state(server, model, "quarantined"))


def test_a_crash_loop_ends_in_quarantine_and_a_reset_ends_that(
    tmp_path: Path, env: dict[str, str]
) -> None:
    with running_server(tmp_path, "--model", "g", "--model", "m", **env) as server:
        crash_until_quarantined(server, "g")
        reply = ask(server, "g")
        assert (reply.status_code, code(reply)) == (503, "model_quarantined")
        assert reply.headers["retry-after"] == "60"
        assert "signal 9" in reply.json()["error"]["message"]
        assert "/admin/models/g/reset" in reply.json()["error"]["message"]
        (one,) = status(server)["quarantine"]
        assert (one["model"], one["backend"], one["code"]) == ("g", "gguf", "worker_died")
        assert (one["crashes"], one["since"] > 1_700_000_000) == (2, True)
        told = server.http.get(f"{server.url}/v1/models/g").json()
        assert told["x_opta"]["state"] == "quarantined"
        assert readiness(server) == (503, 1, ["model g is quarantined"])
        loading = server.http.post(f"{server.url}/admin/models/load", json={"model": "g"})
        assert code(loading) == "model_quarantined"
        assert ask(server, "m").status_code == 200
        assert server.stop() == 0
    # It is so after a restart, though it was named, and that keeps nobody else from serving.
    with started(tmp_path, "--model", "g", "--model", "m", **env) as server:
        wait_until(is_state(server, "m", "ready"), 60)
        assert readiness(server) == (503, 1, ["model g is quarantined"])
        assert server.models()["g"]["pid"] is None
        answer = reset(server, "g")
        expected = {"model": "g", "state": "available", "was_quarantined": True}
        assert (answer.status_code, answer.json()) == (200, expected)
        assert ask(server, "g").status_code == 200
        assert readiness(server) == (200, 2, [])
        assert reset(server, "g").json() == {**expected, "state": "ready", "was_quarantined": False}
        nobody = reset(server, "nobody")
        assert (nobody.status_code, code(nobody)) == (404, "model_not_found")
        wrong = server.http.post(f"{server.url}/admin/models/g/reset", json={"hard": True})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "hard")


BAD: list[dict[str, Any]] = [
    {"messages": []},
    {"temperature": -1},
    {"messages": [{"role": "user", "content": "x" * 200_000}]},
    {"messages": [{"role": "user", "content": "a"}] * 20_000},
    {"logit_bias": {"99999999": 1}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}},
]


def test_models_that_do_not_work_are_left_alone_and_bad_requests_are_not_the_models_fault(
    tmp_path: Path, env: dict[str, str]
) -> None:
    with running_server(tmp_path, **env) as server:
        for model in ("g", "m"):
            assert ask(server, model).status_code == 200
            for fields in BAD:
                assert 400 <= ask(server, model, **fields).status_code < 500, fields
            assert ask(server, model).status_code == 200
            assert server.models()[model]["restarts"] == 0
        assert not (tmp_path / "health.json").exists()
        for model in ("nan-g", "nan-m"):
            codes = [code(ask_when_gone(server, model)) for _ in range(3)]
            assert codes == ["canary_failed", "model_quarantined", "model_quarantined"]
            reply = ask(server, model)
            assert (reply.status_code, "finite" in reply.json()["error"]["message"]) == (503, True)
            loads = server.http.get(f"{server.url}/metrics").text
            assert f'model_loads_total{{model="{model}",reason="request"}} 2.0' in loads
        assert [ask(server, model).status_code for model in ("g", "m")] == [200, 200]
        assert {one["model"] for one in status(server)["quarantine"]} == {"nan-g", "nan-m"}


def ask_when_gone(server: ServerProcess, model: str) -> httpx.Response:
    """Ask for a model when what is left of its last load is off the books."""
    wait_until(lambda: state(server, model) in ("", "quarantined"))
    return ask(server, model)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_never_ends_shows_at_load(tmp_path: Path) -> None:
    write_gguf(tmp_path / "endless.gguf", template=ENDLESS)
    store = ModelStore(tmp_path / "store")
    store.sweep()
    store.add(tmp_path / "endless.gguf", "endless")
    env = {**ENV, "LMX_MODELS__DIR": str(tmp_path / "store"), "LMX_ENGINE__MAX_RESTARTS": "0"}
    with running_server(tmp_path, **env) as server:
        assert code(ask(server, "endless")) == "load_failed"
        assert status(server)["quarantine"] == []


def test_loaded_models_come_back_and_a_row_of_kills_is_safe_mode(
    tmp_path: Path, env: dict[str, str]
) -> None:
    with running_server(tmp_path, "--model", "m", **env) as server:
        assert ask(server, "g").status_code == 200
        kill_front(server)
    with running_server(tmp_path, **env) as server:  # "m" was named then, and is not now
        wait_until(is_state(server, "g", "ready"), 30)
        assert (status(server)["safe_mode"], set(server.models())) == (False, {"g"})
        kill_front(server)
    note = tmp_path / "loaded.json"
    run = json.loads(note.read_text())
    note.write_text(json.dumps({**run, "unclean_ms": run["unclean_ms"] * 2}))  # once more
    with running_server(tmp_path, "--model", "m", **env) as server:
        assert status(server)["safe_mode"] is True
        assert server.http.get(f"{server.url}/readyz").json()["safe_mode"] is True
        assert set(server.models()) == {"m"}, "only what was asked for"
        assert "safe mode" in server.log.read_text()
        assert ask(server, "g").status_code == 200
        assert server.stop() == 0
        assert not note.exists()


def test_a_load_at_which_the_server_is_killed_is_a_crash_of_the_model(
    tmp_path: Path, env: dict[str, str]
) -> None:
    strict = {**env, "LMX_ENGINE__MAX_RESTARTS": "0"}
    with running_server(tmp_path, **strict) as server:
        asker = threading.Thread(target=_ask_and_be_cut, args=(server.url, "g"))
        asker.start()
        wait_until(lambda: server.models().get("g", {}).get("pid"))
        pid = server.models()["g"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        assert state(server, "g") == "loading"
        server.process.kill()
        server.process.wait()
        os.kill(pid, signal.SIGCONT)
        wait_gone(pid, 10)
        asker.join(20)
    with running_server(tmp_path, **strict) as server:
        (one,) = status(server)["quarantine"]
        assert (one["model"], one["code"]) == ("g", "load_interrupted")
        assert code(ask(server, "g")) == "model_quarantined"
        assert reset(server, "g").json()["was_quarantined"] is True
        assert ask(server, "g").status_code == 200


def _ask_and_be_cut(url: str, model: str) -> None:
    message = {"role": "user", "content": "Hi"}
    body = {"model": model, "messages": [message], "max_tokens": 3}
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
