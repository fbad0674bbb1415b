"""The table of failures over `/v1/chat/stream`: the same errors, as frames."""

from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.contract.failures import CHAT_SCRIPTS
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import Frame, WsClient


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home, engine = tmp_path_factory.mktemp("home"), {"restart_backoff_s": 0.05}
    with sim_server(home, CHAT_SCRIPTS, slots=1, max_waiting=0, engine=engine) as live:
        yield live


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    queue = {"load_wait_s": 0}
    with sim_server(tmp_path_factory.mktemp("impatient"), CHAT_SCRIPTS, queue=queue) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[WsClient]:
    with WsClient(server.url) as opened:
        yield opened


def failure(client: WsClient, model: str, **fields: Any) -> Frame:
    """The error that a request ends with."""
    client.ask("a", model, **fields)
    last = client.until("a")
    assert last["type"] == "chat.error", last
    assert last["error"]["message"]
    return last


def assert_waitable(last: Frame) -> None:
    assert 1 <= last["retry_after"] <= 60
    assert last["error"]["retry_after"] == last["retry_after"]


def test_a_full_line(server: LiveServer, client: WsClient) -> None:
    with WsClient(server.url) as holder:
        holder.ask("h", "held")
        holder.until("h", "chat.token")
        holder.ask("w", "held")
        wait_until(lambda: server.status("held")["waiting"] == 1)
        last = failure(client, "held")
    assert last["error"]["type"] == "rate_limit_error"
    assert_waitable(last)
    wait_until(lambda: server.status("held")["running"] == 0)


def test_a_model_that_loads_too_long(impatient: LiveServer) -> None:
    with WsClient(impatient.url) as opened:
        last = failure(opened, "cold")
    assert last["error"]["type"] == "overloaded_error"
    assert_waitable(last)


@pytest.mark.parametrize("model", ["dies-first", "dies-later"])
def test_a_crash_is_one_that_may_pass(client: WsClient, model: str) -> None:
    last = failure(client, model)
    assert last["error"]["type"] == "server_error"
    assert "stopped" in last["error"]["message"]


def test_an_overflow_has_the_words_clients_know(client: WsClient) -> None:
    last = failure(client, "small", messages=[{"role": "user", "content": "x" * 200}])
    assert last["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 64 tokens" in last["error"]["message"]


def test_an_unknown_field_is_named(client: WsClient) -> None:
    last = failure(client, "ok", max_tokenz=5)
    assert (last["error"]["code"], last["error"]["param"]) == (
        "unsupported_parameter",
        "max_tokenz",
    )


def test_an_unknown_model(client: WsClient) -> None:
    last = failure(client, "nobody")
    assert last["error"]["code"] == "model_not_found"
    assert "nobody" in last["error"]["message"]


def test_the_socket_serves_on_after_all_of_them(client: WsClient) -> None:
    failure(client, "nobody")
    client.ask("b", "ok")
    assert client.until("b")["type"] == "chat.done"


def test_without_the_key_no_socket_opens(tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = {"api_keys": ["secret-key"]}
    home = tmp_path_factory.mktemp("locked")
    with sim_server(home, CHAT_SCRIPTS, server=keys) as locked:
        with pytest.raises(InvalidStatus) as refused:
            WsClient(locked.url)
        assert refused.value.response.status_code == 401
        key = {"Authorization": "Bearer secret-key"}
        with WsClient(locked.url, headers=key) as opened:
            opened.ask("a", "ok")
            assert opened.until("a")["type"] == "chat.done"
