"""Ollama's routes over scripted models: its tags, what a model cannot do, many vectors."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

SCRIPTS: dict[str, dict[str, Any]] = {
    "plain": {"reply": "one two"},
    "thinker": {"reply": "<think>hm</think>one", "reasoning": "think"},
    "cold": {"load_ms": 1500},
    "vectors": {"kind": "embedding"},
}
TURNS = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("ollama")
    with sim_server(home, SCRIPTS, server={"prepare_before_headers_s": 0.1}) as running:
        for model in ("plain", "thinker"):
            assert post(running, "generate", model=model).status_code == 200
        yield running


def post(server: LiveServer, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/api/{path}", json=body, timeout=30)


@pytest.mark.parametrize("path", ["embed", "embeddings"])
def test_the_tag_latest_says_nothing(server: LiveServer, path: str) -> None:
    text = {"embed": {"input": "abc"}, "embeddings": {"prompt": "abc"}}[path]
    made = [post(server, path, model=name, **text) for name in ("vectors", "vectors:latest")]
    assert [reply.status_code for reply in made] == [200, 200], made[1].text
    bare, tagged = (reply.json() for reply in made)
    assert tagged.get("embeddings") == bare.get("embeddings")
    assert tagged.get("embedding") == bare.get("embedding")
    assert post(server, path, model="nobody:latest", **text).status_code == 404


def test_many_vectors_come_in_order(server: LiveServer) -> None:
    texts = [chr(97 + place % 26) for place in range(200)]
    answer = post(server, "embed", model="vectors", input=texts).json()
    assert set(answer) == {"model", "embeddings", "total_duration", "prompt_eval_count"}
    assert answer["prompt_eval_count"] == 200
    assert [vector.index(1.0) for vector in answer["embeddings"]] == [i % 26 for i in range(200)]


@pytest.mark.parametrize("think", [True, "high"])
def test_a_model_that_does_not_think_says_so(server: LiveServer, think: Any) -> None:
    for path, asked in (("chat", {"messages": TURNS}), ("generate", {"prompt": "Hi"})):
        for stream in (True, False):
            refused = post(server, path, model="plain", think=think, stream=stream, **asked)
            assert refused.status_code == 400
            assert refused.json() == {"error": '"plain" does not support thinking'}
            calm = post(server, path, model="plain", think=False, stream=stream, **asked)
            assert calm.status_code == 200, calm.text
            thought = post(server, path, model="thinker", think=think, stream=stream, **asked)
            assert thought.status_code == 200
            assert '"thinking":"hm"' in thought.text


def test_a_cold_model_that_does_not_think_says_so_in_the_stream(server: LiveServer) -> None:
    reply = post(server, "chat", model="cold", messages=TURNS, think=True)
    first, *_, last = reply.text.splitlines()
    assert reply.status_code == 200
    assert '"done":false' in first
    assert last == '{"error":"\\"cold\\" does not support thinking","status":400}'
    wait_until(lambda: not server.status("cold")["running"] + server.status("cold")["waiting"])
