"""`/v1/responses` over WebSocket beyond its shape: forgetting, waiting, going, the official SDK."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from websockets.sync.client import ClientConnection, connect

from opta_lmx.api.responses.socket import MAX_WAITING
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

Json = dict[str, Any]

SCRIPTS: dict[str, Json] = {
    "plain": {"reply": "one two three"},
    "slow": {"reply": "word " * 400, "step_ms": 10},
}
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    limits = {"body_limit_bytes": 100_000}
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS, server=limits) as live:
        yield live


@pytest.fixture
def socket(server: LiveServer) -> Iterator[ClientConnection]:
    url = server.url.replace("http", "ws") + "/v1/responses"
    with connect(url, proxy=None, max_queue=None) as client:
        yield client


def send(socket: ClientConnection, model: str, **fields: Any) -> None:
    body = {"type": "response.create", "model": model, "input": "hi", **fields}
    socket.send(json.dumps(body))


def ended(socket: ClientConnection) -> Json:
    """The last event of the next answer."""
    while True:
        event = json.loads(socket.recv(timeout=20))
        if event["type"] in TERMINAL:
            return event


def test_what_was_deleted_is_not_continued_from_memory(
    server: LiveServer, socket: ClientConnection
) -> None:
    send(socket, "plain", store=False)
    unstored = ended(socket)["response"]["id"]
    # Once on what the store knows, once on what only this connection knows.
    for previous in (None, unstored):
        send(socket, "plain", previous_response_id=previous)
        made = ended(socket)["response"]["id"]
        send(socket, "plain", previous_response_id=made, store=False)
        assert ended(socket)["type"] == "response.completed"
        assert httpx.delete(f"{server.url}/v1/responses/{made}").status_code == 200
        send(socket, "plain", previous_response_id=made)
        assert ended(socket)["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("padding", [0, 40_000])
def test_more_than_may_wait_is_refused(
    server: LiveServer, socket: ClientConnection, padding: int
) -> None:
    """By number, and by size before."""
    for _ in range(MAX_WAITING + 2):
        send(socket, "slow", metadata={}, instructions="x" * padding)
    refused = ended(socket)
    assert (refused["type"], refused["status"]) == ("error", 429)
    assert refused["error"]["code"] == "too_many_requests_on_socket"
    assert refused["error"]["retry_after"] >= 1
    socket.close()
    assert wait_until(lambda: not server.status("slow").get("running")) < 2


def test_a_client_that_closes_with_messages_waiting_ends_its_turn(
    server: LiveServer, socket: ClientConnection
) -> None:
    for _ in range(3 * MAX_WAITING):
        send(socket, "slow")
    wait_until(lambda: server.status("slow").get("running"))
    socket.close()
    assert wait_until(lambda: not server.status("slow").get("running")) < 2


# How the SDK opens its connection is the SDK's affair.
@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")
def test_the_sdk_takes_turns_over_a_socket(server: LiveServer) -> None:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", timeout=20) as client,
        client.responses.connect() as connection,
    ):
        connection.response.create(model="plain", input="hi", store=False)
        first = next(event for event in connection if event.type in TERMINAL)
        assert first.type == "response.completed"
        connection.response.create(
            model="plain", input="again", previous_response_id=first.response.id
        )
        second = next(event for event in connection if event.type in TERMINAL)
        assert second.type == "response.completed"
        assert second.response.usage.input_tokens > first.response.usage.input_tokens
        connection.response.create(model="missing", input="hi")
        refused = next(event for event in connection if event.type in TERMINAL)
        assert refused.type == "error"
        assert refused.error.code == "model_not_found"
