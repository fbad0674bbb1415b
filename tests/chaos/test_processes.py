"""What is left when processes die, and who is told what."""

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, running_server, start_server, wait_gone
from tests.support.rawhttp import RawExchange
from tests.support.tiny import tiny_gguf, tiny_llama

pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"
TIE = 0.05
"""Log probabilities that differ by less are as good as equal to an engine whose batches vary."""
ENV = {"LMX_ENGINE__THREADS": "1", "LMX_ENGINE__RESTART_BACKOFF_S": "0.1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    store = ModelStore(folder / "models")
    store.sweep()
    store.add(tiny_gguf(), "tiny-gguf")
    store.add(tiny_llama(), "tiny-mlx")
    return folder


def _body(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Tell me."}], **fields}


class Asker(threading.Thread):
    """Streams one answer in a thread and keeps what came of it."""

    def __init__(self, url: str, model: str, max_tokens: int) -> None:
        super().__init__()
        self._url = url
        asked = {"stream_options": {"include_usage": True}, "temperature": 0}
        self._body = _body(model, stream=True, max_tokens=max_tokens, **asked)
        self.status = 0
        self.tokens = 0
        self.text = ""
        self.usage: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None
        self.finish: str | None = None
        self.ended_at = 0.0
        self.start()

    def run(self) -> None:
        try:
            self._stream()
        except httpx.HTTPError as error:
            self.error = {"type": "connection", "code": str(error)}
        self.ended_at = time.monotonic()

    def _stream(self) -> None:
        with httpx.stream("POST", self._url + CHAT, json=self._body, timeout=60) as reply:
            self.status = reply.status_code
            if reply.status_code != 200:
                self.error = json.loads(reply.read())["error"]
            else:
                for line in reply.iter_lines():
                    self._take(line)

    def _take(self, line: str) -> None:
        if not line.startswith("data: {"):
            return
        event = json.loads(line[6:])
        if "error" in event:
            self.error = event["error"]
            return
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.tokens += bool(choice["delta"].get("content"))
            self.finish = choice.get("finish_reason") or self.finish


def _wait_tokens(askers: list[Asker], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(asker.tokens > 2 for asker in askers):
        assert time.monotonic() < deadline, [(a.status, a.tokens, a.error) for a in askers]
        time.sleep(0.01)


def _kill(server: ServerProcess, model: str) -> None:
    os.kill(server.models()[model]["pid"], signal.SIGKILL)


def _joined(askers: list[Asker]) -> None:
    for asker in askers:
        asker.join(60)
        assert not asker.is_alive()


def _ties(server: ServerProcess, model: str) -> list[tuple[str, bool]]:
    """The tokens of the lone greedy answer, each with whether another was as good as it."""
    asked = _body(model, max_tokens=300, temperature=0, logprobs=True, top_logprobs=2)
    reply = server.http.post(server.url + CHAT, json=asked, timeout=60).json()
    tokens = reply["choices"][0]["logprobs"]["content"]
    tops = [[one["logprob"] for one in token["top_logprobs"]] for token in tokens]
    return [
        (token["token"], abs(top[0] - top[1]) < TIE)
        for token, top in zip(tokens, tops, strict=True)
    ]


def _leaves_at_a_tie(text: str, tokens: list[tuple[str, bool]]) -> bool:
    at = ""
    for token, tie in tokens:
        if not text.startswith(at + token):
            return tie and text.startswith(at)
        at += token
    return False


@pytest.mark.parametrize("model", ["tiny-mlx", "tiny-gguf"])
def test_a_killed_worker_costs_nobody_a_word(home: Path, model: str) -> None:
    other = {"tiny-mlx": "tiny-gguf", "tiny-gguf": "tiny-mlx"}[model]
    with running_server(home, "--model", model, "--model", other, **ENV) as server:
        whole = [Asker(server.url, model, 300) for _ in range(3)]
        _joined(whole)
        victims = [Asker(server.url, model, 300) for _ in range(3)]
        others = [Asker(server.url, other, 60)]
        _wait_tokens(victims)
        _kill(server, model)
        _joined([*victims, *others])
        for one, victim in zip(whole, victims, strict=True):
            assert victim.error is None
            if victim.text == one.text:
                assert (victim.finish, victim.usage) == (one.finish, one.usage)
            else:  # llama.cpp's last bits depend on who else is in the batch
                assert model == "tiny-gguf"
                assert _leaves_at_a_tie(victim.text, _ties(server, model)), victim.text
        assert (others[0].error, others[0].finish in ("length", "stop")) == (None, True)
        models = server.models()
        assert (models[model]["restarts"], models[other]["restarts"]) == (1, 0)


def test_who_was_in_two_dead_workers_is_told(home: Path) -> None:
    with running_server(home, "--model", "tiny-mlx", **ENV) as server:
        victims = [Asker(server.url, "tiny-mlx", 2000) for _ in range(2)]
        for restarts in (0, 1):
            before = [victim.tokens for victim in victims]
            deadline = time.monotonic() + 30
            while any(v.tokens < n + 3 for v, n in zip(victims, before, strict=True)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert server.models()["tiny-mlx"]["restarts"] == restarts
            _kill(server, "tiny-mlx")
        killed_at = time.monotonic()
        _joined(victims)
        for victim in victims:
            assert victim.ended_at - killed_at < 2
            assert victim.error is not None
            assert (victim.error["type"], victim.error["code"]) == ("server_error", "worker_died")
        again = server.http.post(server.url + CHAT, json=_body("tiny-mlx", max_tokens=4))
        assert again.status_code == 200


def test_killing_the_front_ends_its_workers_and_the_next_start_is_clean(home: Path) -> None:
    with running_server(home, "--model", "tiny-gguf", "--model", "tiny-mlx", **ENV) as server:
        asker = Asker(server.url, "tiny-mlx", 2000)
        _wait_tokens([asker])
        pids = [model["pid"] for model in server.models().values()]
        server.process.kill()
        server.process.wait()
        for pid in pids:
            wait_gone(pid, 5)
        asker.join(10)
    with running_server(home, "--model", "tiny-gguf", **ENV) as server:
        reply = server.http.post(server.url + CHAT, json=_body("tiny-gguf", max_tokens=4))
        assert reply.status_code == 200


def test_a_second_server_on_the_same_home_is_refused_in_one_line(home: Path) -> None:
    with running_server(home, **ENV) as server:
        second = start_server(home / ".." / home.name, **ENV)
        assert second.process.wait(30) != 0
        lines = second.log.read_text().strip().splitlines()
        assert len(lines) == 1
        assert f"pid {server.process.pid}" in lines[0]
        assert server.http.get(f"{server.url}/healthz").status_code == 200


def test_a_taken_port_names_its_holder_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start_server(tmp_path, "--port", str(port))
        assert server.process.wait(30) != 0
    lines = server.log.read_text().strip().splitlines()
    assert len(lines) == 1
    assert str(port) in lines[0]
    assert f"pid {os.getpid()}" in lines[0]


def test_state_that_cannot_be_used_is_a_typed_start_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("not a folder")
    server = start_server(tmp_path)
    assert server.process.wait(30) != 0
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "models" in text


@pytest.mark.parametrize("drain_s", ["20", "1"])
def test_sigterm_under_load_ends_every_stream_properly(home: Path, drain_s: str) -> None:
    settings = {**ENV, "LMX_SERVER__DRAIN_TIMEOUT_S": drain_s}
    max_tokens = 150 if drain_s == "20" else 1900
    with running_server(home, "--model", "tiny-mlx", **settings) as server:
        askers = [Asker(server.url, "tiny-mlx", max_tokens) for _ in range(3)]
        _wait_tokens(askers)
        began = time.monotonic()
        assert server.stop(timeout_s=30) == 0
        assert time.monotonic() - began < float(drain_s) + 8
        for asker in askers:
            asker.join(5)
            if asker.finish is None:
                assert asker.error is not None
                assert asker.error["type"] in ("server_error", "overloaded_error")
            elif drain_s == "20":
                assert asker.finish in ("length", "stop")


@pytest.mark.parametrize("model", ["tiny-mlx", "tiny-gguf"])
def test_clients_that_hang_up_free_their_slots(home: Path, model: str) -> None:
    with running_server(home, "--model", model, **ENV) as server:
        for stream in (True, False):
            exchange = RawExchange(server.url, CHAT, _body(model, stream=stream, max_tokens=1900))
            deadline = time.monotonic() + 10
            while server.models()[model]["running"] != 1:
                assert time.monotonic() < deadline
            if stream:
                exchange.read_until(b'"content"')
            exchange.hang_up()
            began = time.monotonic()
            while server.models()[model]["running"]:
                assert time.monotonic() - began < 1.0
