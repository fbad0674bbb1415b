"""Bodies of every size, and those that come with a wish to speak another protocol."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from opta_lmx.api.body import LARGE_BODY_BYTES, BodyParser
from opta_lmx.core.errors import LmxError, invalid
from tests.support.server import LiveServer, sim_server

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
SIZED = b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with sim_server(tmp_path_factory.mktemp("home"), {"m": {"context": 2_000_000}}) as running:
        yield running


def replies(server: LiveServer, *segments: bytes) -> bytes:
    """Send the segments one by one, then read to the end."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in segments:
            client.sendall(segment)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("rest", [SIZED, CHUNKED], ids=["sized", "chunked"])
@pytest.mark.parametrize("cut", [0, 40, len(HEAD + UPGRADE), len(HEAD + UPGRADE) + 30, -20])
def test_an_unknown_upgrade_is_ignored(server: LiveServer, rest: bytes, cut: int) -> None:
    sent = HEAD + UPGRADE + rest
    text = replies(server, sent[:cut], sent[cut:] + LAST)
    assert text.count(b"HTTP/1.1 200 OK") == 2
    assert b"one two three four" in text
    assert text.endswith(b"}")


def test_every_request_of_a_connection_may_wish_to_upgrade(server: LiveServer) -> None:
    websocket = b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n"
    bare = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE + b"\r\n"
    text = replies(server, HEAD + UPGRADE + SIZED + bare + HEAD + websocket + SIZED + LAST)
    assert text.count(b"HTTP/1.1 200 OK") == 4
    assert text.count(b"one two three four") == 2


def test_a_wish_to_close_is_heard_beside_an_upgrade(server: LiveServer) -> None:
    close = b"Connection: close, upgrade\r\nUpgrade: h2c\r\n"
    text = replies(server, HEAD + close + SIZED)
    assert b"connection: close" in text
    assert b"one two three four" in text


def test_a_tunnel_is_refused(server: LiveServer) -> None:
    text = replies(server, b"CONNECT a.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert text.startswith(b"HTTP/1.1 4")


def test_a_large_body_is_answered(server: LiveServer) -> None:
    message = {"role": "user", "content": "x" * (2 * LARGE_BODY_BYTES)}
    body = {"model": "m", "messages": [message]}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] > 2 * LARGE_BODY_BYTES
    wrong = httpx.post(
        f"{server.url}/v1/chat/completions", json={**body, "temperature": "hot"}, timeout=30
    )
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "temperature"
    assert server.status("m")["waiting"] == server.status("m")["running"] == 0


def test_the_loop_runs_on_while_a_large_body_is_parsed() -> None:
    async def main() -> int:
        turned = threading.Event()
        asyncio.get_running_loop().call_later(0.01, turned.set)

        def parse(body: bytes) -> int:
            assert turned.wait(10), "the loop stood still"
            return len(body)

        return await BodyParser().parse(parse, b"x" * (LARGE_BODY_BYTES + 1))

    assert asyncio.run(main()) == LARGE_BODY_BYTES + 1


def test_large_bodies_are_parsed_one_at_a_time() -> None:
    async def main() -> int:
        parser = BodyParser()
        active = most = 0
        guard = threading.Lock()
        pause = threading.Event()

        def parse(_: bytes) -> None:
            nonlocal active, most
            with guard:
                active += 1
                most = max(most, active)
            pause.wait(0.01)
            with guard:
                active -= 1

        large = b"x" * (LARGE_BODY_BYTES + 1)
        await asyncio.gather(*(parser.parse(parse, large) for _ in range(5)))
        return most

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize("size", [1, LARGE_BODY_BYTES + 1])
def test_what_the_parser_raises_is_raised(size: int) -> None:
    def parse(_: bytes) -> None:
        raise invalid("wrong")

    with pytest.raises(LmxError, match="wrong"):
        asyncio.run(BodyParser().parse(parse, b"x" * size))


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"model": "\xff"}', "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"[" * 10_000, "invalid_json", None),
        (b'{"model": 1}', "invalid_request", "model"),
        (b'{"model": "m", "backend": "x"}', "invalid_request", "backend"),
        (b'{"model": "m", "more": 1}', "unsupported_parameter", "more"),
    ],
)
def test_an_operators_wrong_body_is_refused_like_any_other(
    server: LiveServer, body: bytes, code: str, param: str | None
) -> None:
    reply = httpx.post(f"{server.url}/admin/models/load", content=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
