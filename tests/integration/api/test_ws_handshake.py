"""Who may open a WebSocket, and what an `Upgrade` that is none becomes."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.rawhttp import connected, read_to
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

KEY = "a-key-of-some-length"
BEARER = {"Authorization": f"Bearer {KEY}"}
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    scripts = {"m": {"reply": "one two"}, "slow": {"reply": "word " * 500, "step_ms": 5}}
    with sim_server(home, scripts, server={"api_keys": [KEY]}) as running:
        yield running


def refusal(server: LiveServer, path: str = "/v1/chat/stream", **options: Any) -> Any:
    with pytest.raises(InvalidStatus) as refused:
        WsClient(server.url, path, **options)
    return refused.value.response


@pytest.mark.parametrize("headers", [BEARER, {"x-api-key": KEY}])
def test_a_key_opens(server: LiveServer, headers: dict[str, str]) -> None:
    with WsClient(server.url, headers={**headers, "X-Request-ID": "mine-1"}) as client:
        reply = client.connection.response
        assert reply is not None
        assert reply.headers["x-request-id"] == "mine-1"
        client.ask("a")
        assert client.until("a")["type"] == "chat.done"


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}])
def test_no_key_is_an_http_reply_in_the_envelope(
    server: LiveServer, headers: dict[str, str]
) -> None:
    reply = refusal(server, headers=headers)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.headers["x-request-id"]
    assert json.loads(reply.body)["error"]["code"] == "invalid_api_key"


def test_a_foreign_origin_is_refused(server: LiveServer) -> None:
    reply = refusal(server, headers=BEARER, origin="http://evil.example")
    assert reply.status_code == 403
    assert json.loads(reply.body)["error"]["code"] == "origin_not_allowed"
    with WsClient(server.url, headers=BEARER, origin=server.url):
        pass


@pytest.mark.parametrize("path", ["/v1/chat/nowhere", "/v1/chat/completions", "/v1/messages"])
def test_an_unknown_path_is_not_found(server: LiveServer, path: str) -> None:
    reply = refusal(server, path, headers=BEARER)
    assert reply.status_code == 404
    error = json.loads(reply.body)["error"]
    assert error["message"] == f"Unknown path {path}."


def test_handshakes_are_counted(server: LiveServer) -> None:
    with WsClient(server.url, headers=BEARER):
        text = httpx.get(f"{server.url}/metrics", headers=BEARER).text
    assert 'requests_total{code="101",route="/v1/chat/stream"}' in text


def send(raw: socket.socket, head: str, body: bytes = b"") -> None:
    lines = f"{head}Host: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    raw.sendall(lines.encode() + body)


def test_a_request_with_a_body_is_never_upgraded(server: LiveServer) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{UPGRADE}Content-Length: {len(body)}\r\n"
    with connected(server.url) as raw:
        send(raw, head, body)
        assert b"HTTP/1.1 200" in read_to(raw, b"one two")


def test_only_a_get_is_upgraded(server: LiveServer) -> None:
    with connected(server.url) as raw:
        send(raw, f"POST /v1/chat/completions HTTP/1.1\r\n{UPGRADE}")
        assert read_to(raw, b'"invalid_json"').startswith(b"HTTP/1.1 400")


def test_an_upgrade_behind_a_running_answer_is_answered_as_http(server: LiveServer) -> None:
    fields = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps({**fields, "max_tokens": 20}).encode()
    with connected(server.url) as raw:
        send(raw, f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n", body)
        read_to(raw, b"word")
        send(raw, f"GET /v1/chat/stream HTTP/1.1\r\n{UPGRADE}")
        assert b"HTTP/1.1 404" in read_to(raw, b"unknown_path")


def test_frames_before_the_handshake_is_answered_are_refused(server: LiveServer) -> None:
    with connected(server.url) as raw:
        send(raw, f"GET /v1/chat/stream HTTP/1.1\r\n{UPGRADE}", b"\x81\x02{}")
        assert read_to(raw, b"\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_connection_may_be_used_before_it_is_upgraded(server: LiveServer) -> None:
    with connected(server.url) as raw:
        send(raw, "GET /healthz HTTP/1.1\r\n")
        read_to(raw, b"\r\n\r\n")
        send(raw, f"GET /v1/chat/stream HTTP/1.1\r\n{UPGRADE}")
        assert b"HTTP/1.1 101" in read_to(raw, b"x-request-id")
