"""A client that goes while llama.cpp reads its long prompt: the slot is free soon after."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.process import ServerProcess, running_server
from tests.support.starters import starter_settings
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.alone]

LIMIT_S = 2.0
MODEL = "starter"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home: Path = tmp_path_factory.mktemp("cancel")
    with running_server(home, "--model", MODEL, **starter_settings()) as found:
        yield found


def status(server: ServerProcess) -> dict[str, Any]:
    return server.models()[MODEL]


def generated(server: ServerProcess) -> bool:
    """Whether any token of an answer was made."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    lines = [line for line in text.splitlines() if "opta_lmx_generation_tokens_total{" in line]
    return any(float(line.split()[-1]) > 0 for line in lines)


@pytest.mark.parametrize("stream", [True, False])
def test_the_slot_is_free_within_two_seconds(server: ServerProcess, stream: bool) -> None:
    words = " ".join(f"{'stream' if stream else 'plain'}{number}" for number in range(1500))
    messages = [{"role": "user", "content": words}]
    body = json.dumps({"model": MODEL, "messages": messages, "stream": stream, "max_tokens": 8})
    before = status(server)["steps"]
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    # Each step reports another part of the prompt: it is in the midst of it.
    wait_until(lambda: status(server)["steps"] >= before + 3, 60)
    assert status(server)["running"] == 1
    connection.close()
    began = time.monotonic()
    # llama.cpp itself says when: the slot is given back once it calls it idle.
    wait_until(lambda: status(server)["running"] == 0, 30)
    assert time.monotonic() - began <= LIMIT_S
    assert not generated(server)
    steps = status(server)["steps"]
    assert steps - before < 60  # of the more than a hundred its prompt takes
