"""Names over HTTP: what is meant, what is ambiguous, and what is not there."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.server import LiveServer, sim_server

SCRIPTS: dict[str, dict[str, Any]] = {
    "starter": {"reply": "ok"},
    "one/same": {"reply": "ok"},
    "two/same": {"reply": "ok"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS) as running:
        running.resolver.aliases["gpt-4o"] = "starter"
        yield running


def ask(server: LiveServer, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)


def test_all_names_lead_to_one_worker(server: LiveServer) -> None:
    for model in ("starter", "opta/starter", "STARTER", "starter.gguf", "gpt-4o", "x/GPT-4o"):
        reply = ask(server, model)
        assert reply.status_code == 200, reply.text
    assert [one.id for one in server.app.engine.status()].count("starter") == 1


def test_an_ambiguous_name_lists_what_it_could_be(server: LiveServer) -> None:
    reply = ask(server, "same")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, "model_ambiguous", "model")
    assert "one/same, two/same" in error["message"]
    assert server.status("one/same") == server.status("two/same") == {}


def test_an_unknown_name_is_told_what_is_near(server: LiveServer) -> None:
    reply = ask(server, "startre")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (404, "model_not_found")
    assert "'starter'" in error["message"]
