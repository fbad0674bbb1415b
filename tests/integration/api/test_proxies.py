"""Behind proxies, on real sockets: nobody moves the address that failures are counted for."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.rawhttp import connected
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

KEY = "k-1234567890"
LIMIT = 3
WRONG = {"Authorization": "Bearer wrong"}
RIGHT = {"Authorization": f"Bearer {KEY}"}
_clients = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Believes a proxy on 127.0.0.1: the tests are that proxy."""
    security = {"trusted_proxies": ["127.0.0.1"], "auth_failures_per_minute": LIMIT}
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, {"m": {}}, server={"api_keys": [KEY]}, security=security) as running:
        yield running


@pytest.fixture
def client() -> str:
    """The address of somebody who has not asked before."""
    return f"203.0.113.{next(_clients)}"


def status(server: LiveServer, headers: dict[str, str]) -> int:
    return httpx.get(f"{server.url}/v1/models", headers=headers).status_code


def spoofs(client: str, attempt: int) -> list[dict[str, str]]:
    """What a proxy that appends the client's address makes of a client's own inventions."""
    invented = f"198.51.100.{attempt}"
    return [
        {"X-Forwarded-For": client},
        {"X-Forwarded-For": f"{invented}, {client}"},
        {"X-Forwarded-For": f"127.0.0.1, {invented}, {client}:{attempt}"},
        {"X-Forwarded-For": f'"{invented}, ::ffff:{client}'},
        {"Forwarded": f'for="{invented}, for={client}'},
        {"Forwarded": f"for={invented};by=x, for={client};proto=https"},
        {"X-Forwarded-For": f", {invented},, {client}", "X-Real-IP": invented},
    ]


@pytest.mark.parametrize("spoof", range(7))
def test_no_header_moves_the_address_that_failures_count_for(
    server: LiveServer, client: str, spoof: int
) -> None:
    sent = [status(server, {**WRONG, **spoofs(client, n)[spoof]}) for n in range(1, LIMIT + 3)]
    assert sent == [401] * LIMIT + [429] * 2
    # Whatever the others wrote, it counted for this client, and only for it.
    assert status(server, {**WRONG, "X-Forwarded-For": client}) == 429
    assert status(server, {**WRONG, "X-Forwarded-For": client.replace("203", "192")}) == 401
    assert status(server, {**RIGHT, "X-Forwarded-For": client}) == 200


def test_two_headers_that_differ_are_refused(server: LiveServer, client: str) -> None:
    headers = {**RIGHT, "X-Forwarded-For": client, "Forwarded": "for=198.51.100.1"}
    reply = httpx.get(f"{server.url}/v1/models", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "forwarded_conflict")
    with pytest.raises(InvalidStatus) as refused:
        WsClient(server.url, headers=headers)
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body)["error"]["code"] == "forwarded_conflict"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/messages", "anthropic"),
        ("/v1/chat/completions", "openai"),
        ("/api/chat", "ollama"),
    ],
)
def test_it_is_told_in_the_dialect_under_an_id_and_counted(
    server: LiveServer, client: str, path: str, kind: str
) -> None:
    headers = {**RIGHT, "X-Forwarded-For": client, "Forwarded": "for=198.51.100.1"}
    before = refused_so_far(server)
    reply = httpx.post(f"{server.url}{path}", headers={**headers, "X-Request-Id": "r-1"}, json={})
    error = reply.json()
    assert reply.status_code == 400
    assert reply.headers["x-request-id"] == "r-1"
    assert (error.get("type") == "error") is (kind == "anthropic")
    assert isinstance(error["error"], str) is (kind == "ollama")
    assert refused_so_far(server) == before + 1


def refused_so_far(server: LiveServer) -> float:
    """Requests that were answered 400 before any route was chosen."""
    text = httpx.get(f"{server.url}/metrics", headers=RIGHT).raise_for_status().text
    rows = [row for row in text.splitlines() if row.startswith("opta_lmx_requests_total{")]
    return sum(
        float(row.rpartition(" ")[2])
        for row in rows
        if 'code="400"' in row and 'route="unmatched"' in row
    )


def test_a_websocket_counts_for_the_same_address(server: LiveServer, client: str) -> None:
    behind = {"X-Forwarded-For": client}
    for _ in range(LIMIT):
        assert status(server, {**WRONG, **behind}) == 401
    with pytest.raises(InvalidStatus) as refused:
        WsClient(server.url, headers={**WRONG, **behind})
    assert refused.value.response.status_code == 429
    with WsClient(server.url, headers={**RIGHT, **behind}) as socket:
        socket.ask("a")
        assert socket.until("a")["type"] == "chat.done"


def test_trailers_move_nobody(server: LiveServer, client: str) -> None:
    """A trailer comes before the request is looked at, where it is sent at once."""
    head = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: wrong\r\n"
    head += f"X-Forwarded-For: {client}\r\n"
    for attempt in range(LIMIT + 1):
        trailer = f"X-Forwarded-For: 198.51.100.{attempt}\r\nX-Api-Key: {KEY}\r\n\r\n"
        with connected(server.url) as raw:
            raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n{trailer}".encode())
            expected = b"HTTP/1.1 401" if attempt < LIMIT else b"HTTP/1.1 429"
            assert raw.recv(65536).startswith(expected)


def test_without_trusted_proxies_headers_say_nothing(tmp_path: Path) -> None:
    limits = {"auth_failures_per_minute": LIMIT}
    with sim_server(tmp_path, {"m": {}}, server={"api_keys": [KEY]}, security=limits) as server:
        sent = [
            status(server, {**WRONG, name: f"{prefix}203.0.113.{n}"})
            for n, (name, prefix) in enumerate([("X-Forwarded-For", ""), ("Forwarded", "for=")] * 3)
        ]
        assert sent == [401] * LIMIT + [429] * LIMIT
