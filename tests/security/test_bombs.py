"""Bodies that would explode: each is refused by every route that reads one, and nothing else.

What reading them costs is measured by tests/unit/api/test_json_limits.py.
"""

import gzip
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from opta_lmx.api.admin import bodies as admin_bodies
from opta_lmx.api.tickets import PATH as TICKETS
from tests.security import live
from tests.support.rawhttp import connected, read_to
from tests.support.server import LiveServer, sim_server

KEY = "sk-bombs"
SHOWN = {"Authorization": f"Bearer {KEY}"}
BODY_LIMIT = 2 * 1024 * 1024
BOMBS: dict[str, bytes] = {
    "lists": b"[" * 100_000,
    "closed lists": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "objects": b'{"a":' * 100_000,
    "keys": json.dumps({f"k{n}": 0 for n in range(201_000)}, separators=(",", ":"))[:-1].encode(),
    "values": b'{"a":[' + b"[]," * 260_000 + b"0]}",
    "digits": b'{"seed":' + b"9" * 100_000 + b"}",
    "fraction": b'{"seed":0.' + b"9" * 100_000 + b"}",
    "twice": b'{"model":"chat","model":"chat"' + b',"model":"x"' * 50_000,
    "half a pair": b'{"model":"\\ud800","messages":"\\udc00"',
    "no text": b"\xff\xfe\x00" * 1000,
    "nothing": b"",
    "packed": gzip.compress(b'{"model":"' + b"x" * 10_000_000 + b'"}'),
}
LARGE = b'{"model":"' + b"x" * BODY_LIMIT + b'"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    asked = {"api_keys": [KEY], "body_limit_bytes": BODY_LIMIT, "body_timeout_s": 0.3}
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, live.SCRIPTS, server=asked) as running:
        yield running


@pytest.fixture(scope="module")
def readers(server: LiveServer) -> list[live.Route]:
    """The routes that take a body."""
    told = live.document(server, SHOWN)
    found = [route for route, operation in live.operations(told) if "requestBody" in operation]
    assert len(found) > 25
    return found


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bombs_are_refused_by_every_route(
    server: LiveServer, readers: list[live.Route], name: str
) -> None:
    packed = {"Content-Encoding": "gzip"} if name == "packed" else {}
    headers = {**SHOWN, **packed, "Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=30) as http:
        for route in readers:
            reply = http.request(route.method, route.asked, content=BOMBS[name])
            allowed = (400, 413)
            if name == "nothing":
                # Where a body may be left out, what the path names is not there.
                allowed = (201,) if route.path == TICKETS else (400, 404)
            assert reply.status_code in allowed, (route, reply.status_code, reply.text[:200])
    assert server.resolver.loads == []


def test_large_bodies_are_refused_by_every_route(
    server: LiveServer, readers: list[live.Route]
) -> None:
    with httpx.Client(base_url=server.url, headers=SHOWN, timeout=30) as http:
        for route in readers:
            reply = http.request(route.method, route.asked, content=LARGE)
            assert reply.status_code == 413, (route, reply.text[:200])


def test_slow_bodies_are_refused_by_every_route(
    server: LiveServer, readers: list[live.Route], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte at first, then none: side by side, for each takes until the deadline."""
    monkeypatch.setattr(admin_bodies, "_TIMEOUT_S", 0.3)
    clients = []
    for route in readers:
        client = connected(server.url)
        head = (
            f"{route.method} {route.asked} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Length: 20\r\n\r\n{{"
        )
        client.sendall(head.encode())
        clients.append((route, client))
    began = time.monotonic()
    for route, client in clients:
        with client:
            answer = read_to(client, b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 408 "), (route, answer)
    assert time.monotonic() - began < 15


def test_the_server_answers_as_before(server: LiveServer) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
    url = f"{server.url}/v1/chat/completions"
    assert httpx.post(url, json=body, headers=SHOWN, timeout=30).status_code == 200
