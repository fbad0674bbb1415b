"""What hostile bytes on a WebSocket cost the others: little, and never the loop."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from opta_lmx.api.ws_connection import FRAME_LIMIT_BYTES, MAX_FRAGMENTS
from tests.support.rawhttp import connected, read_to
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

HANDSHAKE = (
    "GET /v1/chat/stream HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CONTINUATION, TEXT, PING, CLOSE = 0, 1, 9, 8
PING_FRAME = b'{"type":"ping"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    limit = FRAME_LIMIT_BYTES + 2_000_000
    with sim_server(
        tmp_path_factory.mktemp("home"),
        {"m": {"reply": "one two three"}},
        send_buffer=8192,
        server={"body_limit_bytes": limit},
    ) as running:
        yield running


def frame(kind: int, data: bytes = b"", *, last: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(data)
    head = bytes([(0x80 if last else 0) | kind])
    head += bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return head + bytes(4) + data


def opened(server: LiveServer, *, receive_buffer: int | None = None) -> socket.socket:
    """An open WebSocket as a socket that sends whatever bytes it is given."""
    raw = connected(server.url, receive_buffer=receive_buffer)
    raw.sendall(HANDSHAKE.encode())
    assert read_to(raw, b"\r\n\r\n").startswith(b"HTTP/1.1 101")
    return raw


def refusals(client: httpx.Client) -> int:
    wanted = 'opta_lmx_requests_total{code="400",route="/v1/chat/stream"}'
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(wanted):
            return int(float(line.split()[-1]))
    return 0


def test_a_message_may_come_in_pieces_with_pings_between(server: LiveServer) -> None:
    half = len(PING_FRAME) // 2
    with opened(server) as raw:
        raw.sendall(
            frame(TEXT, PING_FRAME[:half], last=False)
            + frame(PING, b"a")
            + frame(CONTINUATION, last=False)
            + frame(CONTINUATION, PING_FRAME[half:])
        )
        answered = read_to(raw, b'"pong"}')
    assert answered.startswith(b"\x8a\x01a")


def test_a_message_of_countless_pieces_closes(server: LiveServer) -> None:
    with opened(server) as raw:
        first = frame(TEXT, b" ", last=False)
        raw.sendall(first + frame(CONTINUATION, last=False) * MAX_FRAGMENTS)
        closed = read_to(raw, b"too many fragments")
    assert closed[0] == 0x80 | CLOSE
    assert struct.unpack("!H", closed[2:4]) == (1008,)


def test_a_message_may_be_as_large_as_a_body(server: LiveServer) -> None:
    with WsClient(server.url) as client:
        client.ask("a", messages=[{"role": "user", "content": "x" * (FRAME_LIMIT_BYTES + 10)}])
        error = client.until("a")["error"]
        assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("kind", ["ping", "chat.cancel"])
def test_a_control_frame_is_short(server: LiveServer, kind: str) -> None:
    with WsClient(server.url) as client:
        client.say(type=kind, request_id="a", x=[[]] * 2000)
        error = client.hear()["error"]
        assert (error["param"], "4096" in error["message"]) == ("type", True)


@pytest.mark.parametrize("wrong", [[[]] * 100_000, "x" * 100_000, {"a": 1}, 5])
def test_an_id_that_is_none_is_refused(server: LiveServer, wrong: Any) -> None:
    with WsClient(server.url) as client:
        client.say(type="chat.request", request_id=wrong)
        assert client.hear()["error"]["param"] == "request_id"


def test_a_flood_of_frames_leaves_others_their_turn(server: LiveServer) -> None:
    flood = 6000
    seen: set[int] = set()
    with (
        httpx.Client(base_url=server.url) as other,
        opened(server, receive_buffer=1 << 22) as raw,
    ):
        before = refusals(other)
        raw.sendall(frame(TEXT, b'{"type":"chat.request"}') * flood)
        raw.setblocking(False)
        deadline = time.monotonic() + 20
        while flood not in seen and time.monotonic() < deadline:
            seen.add(refusals(other) - before)
            # What is there and no more: to wait for a pause in the answers is to see the last one.
            with contextlib.suppress(BlockingIOError):
                raw.recv(1 << 20)
    assert flood in seen
    # Hundreds of looks; less than ten where only every read of the socket lets others in.
    assert len(seen - {0, flood}) > 30, sorted(seen)


def test_pings_of_a_client_that_does_not_read_are_not_kept(server: LiveServer) -> None:
    with opened(server, receive_buffer=8192) as raw:
        raw.sendall(frame(PING, b"x" * 125) * 40_000 + frame(TEXT, PING_FRAME))
        answers = read_to(raw, b'"pong"}')
    assert answers.count(b"\x8a\x7d") < 20_000


def test_frames_are_json(server: LiveServer) -> None:
    with WsClient(server.url) as client:
        client.connection.send(json.dumps("ping"))
        assert client.hear()["error"]["code"] == "invalid_json"
