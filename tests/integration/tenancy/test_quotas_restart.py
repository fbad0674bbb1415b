"""A real server, killed after its answers: what was used stays used; quotas change as it runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, start_server
from tests.support.tiny import tiny_gguf
from tests.support.waiting import wait_until

KEYS = (
    '[{name = "bot", key = "sk-bot"}, '
    '{name = "free", key = "sk-free", scopes = ["inference", "admin"]}]'
)
QUOTAS = (
    '[{name = "bot", requests_per_day = 5, prompt_tokens_per_day = 1000, '
    "output_tokens_per_day = 1000}]"
)
COMMAND = [sys.executable, "-m", "opta_lmx.cli.main", "quotas"]
BOT = {"Authorization": "Bearer sk-bot"}
FREE = {"Authorization": "Bearer sk-free"}


def started(home: Path) -> ServerProcess:
    environment = {
        "LMX_ENGINE__THREADS": "1",
        "LMX_ACCESS__KEYS": KEYS,
        "LMX_QUOTAS__KEYS": QUOTAS,
    }
    server = start_server(home, **environment)
    server.wait_listening()
    return server


def ask(server: ServerProcess, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "the cat"}],
        "max_tokens": 3,
    }
    return server.http.post(f"{server.url}/v1/chat/completions", json=body, headers=headers)


def standing(server: ServerProcess) -> dict[str, int]:
    reply = server.http.get(f"{server.url}/admin/quotas/keys/bot", headers=FREE)
    assert reply.status_code == 200, reply.text
    return {one["resource"]: one["limit"] - one["remaining"] for one in reply.json()["standing"]}


def test_killed_after_the_answer_nothing_is_forgotten(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = ModelStore(home / "models")
    store.sweep()
    store.add(tiny_gguf(), "tiny")
    server = started(home)
    try:
        used = {"requests": 0, "prompt_tokens": 0, "output_tokens": 0}
        for _ in range(3):
            reply = ask(server, **BOT)
            assert reply.status_code == 200, reply.text
            usage = reply.json()["usage"]
            used["requests"] += 1
            used["prompt_tokens"] += usage["prompt_tokens"]
            used["output_tokens"] += usage["completion_tokens"]
        server.stop(signal.SIGKILL)
        server.http.close()
        server = started(home)
        assert standing(server) == used
        assert [ask(server, **BOT).status_code for _ in range(3)] == [200, 200, 429]

        changed = subprocess.run(
            [*COMMAND, "set", "--key", "bot", "--requests-per-day", "6"],
            env={**os.environ, "LMX_HOME": str(home)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "requests per day 6" in changed.stderr
        wait_until(lambda: ask(server, **BOT).status_code == 200, 5)
        assert ask(server, **BOT).status_code == 429
        assert ask(server, **FREE).status_code == 200
    finally:
        server.http.close()
        server.stop()
