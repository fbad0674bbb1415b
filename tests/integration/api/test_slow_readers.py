"""Clients that stop reading are cut, and never hold a slot; clients that go are noticed."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.rawhttp import connected
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

WORD = "w" * 2000
WRITE_TIMEOUT_S = 0.4
CHUNK_BORDER = re.compile(rb"\r\n[0-9a-f]+\r\n")
SCRIPTS: dict[str, dict[str, Any]] = {
    # Fits the backlog, not the kernel's buffers.
    "short": {"reply": f"{WORD} " * 250},
    # More than is ever kept for a client, made fast and then held back.
    "endless": {"reply": f"{WORD} " * 5000, "step_ms": 1},
    "stopping": {"reply": f"{WORD} " * 100 + "HALT " + "on " * 5000, "step_ms": 2},
    "slow": {"reply": "word " * 5000, "step_ms": 5},
    "quick": {},
}


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that waits long for a reader."""
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS, send_buffer=8192) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that waits `WRITE_TIMEOUT_S` for a reader."""
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, SCRIPTS, send_buffer=8192, write_timeout_s=WRITE_TIMEOUT_S) as running:
        yield running


def request(model: str, **fields: Any) -> bytes:
    fields = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(server: LiveServer, *requests: bytes) -> socket.socket:
    """Send requests over a connection whose kernel buffer is small; read nothing."""
    client = connected(server.url, receive_buffer=8192)
    client.sendall(b"".join(requests))
    return client


def busy(server: LiveServer, model: str) -> bool:
    return bool(server.status(model).get("running"))


def read_all(client: socket.socket, marker: bytes, at_once: int = 65536) -> bytes:
    """Read to the marker; the borders of HTTP chunks are taken out."""
    received = bytearray()
    while marker not in received[-at_once - len(marker) :]:
        data = client.recv(at_once)
        assert data, received[-200:]
        received += data
    return CHUNK_BORDER.sub(b"", bytes(received))


def is_cut(client: socket.socket) -> bool:
    """True when the connection ended before its answer was whole."""
    received = bytearray()
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        return True
    return b"[DONE]" not in received


@pytest.mark.parametrize("stream", [True, False])
def test_who_stops_reading_is_cut_though_the_engine_is_idle(
    strict: LiveServer, *, stream: bool
) -> None:
    with connect(strict, request("short", stream=stream)) as client:
        wait_until(lambda: strict.state.tasks, 20)
        wait_until(lambda: not strict.state.tasks and not strict.state.connections, 10)
        assert is_cut(client)
    assert not busy(strict, "short")


def test_who_falls_too_far_behind_is_cut_while_the_engine_runs(patient: LiveServer) -> None:
    with connect(patient, request("endless", stream=True)) as client:
        wait_until(lambda: busy(patient, "endless"), 20)
        wait_until(lambda: not busy(patient, "endless"), 4)
        wait_until(lambda: not patient.state.tasks and not patient.state.connections, 1)
        assert is_cut(client)


def test_a_stop_string_is_noticed_behind_a_blocked_write(patient: LiveServer) -> None:
    fields = {"stop": ["HALT"], "stream": True, "stream_options": {"include_usage": True}}
    with connect(patient, request("stopping", **fields)) as client:
        wait_until(lambda: busy(patient, "stopping"), 20)
        wait_until(lambda: not busy(patient, "stopping"), 4)
        text = read_all(client, b"[DONE]")
    told = [json.loads(line[6:]) for line in text.splitlines() if line.startswith(b"data: {")]
    said = [c["delta"].get("content", "") for chunk in told for c in chunk["choices"]]
    # How a token's text is cut into pieces is nobody's business here.
    assert "".join(said) == f"{WORD} " * 100
    assert b'"finish_reason":"stop"' in text
    assert b'"completion_tokens":101' in text
    assert b"HALT" not in text


def test_who_reads_late_but_reads_gets_everything(strict: LiveServer) -> None:
    with connect(strict, request("short", stream=True)) as client:
        received = read_all(client, b"[DONE]", 4096)
    assert received.count(WORD.encode()) == 250


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_hang_up_behind_a_pipelined_request_frees_the_slot(
    patient: LiveServer, size: int
) -> None:
    second = request("quick", messages=[{"role": "user", "content": "x" * size}])
    with connect(patient, request("slow"), second):
        wait_until(lambda: busy(patient, "slow"), 20)
    wait_until(lambda: not busy(patient, "slow"), 1)
    wait_until(lambda: not patient.state.tasks and not patient.state.connections, 1)


def test_pipelined_requests_are_answered_in_turn(patient: LiveServer) -> None:
    stream = request("quick", stream=True)
    with connect(patient, stream, request("quick"), stream) as client:
        text = read_all(client, b"[DONE]") + read_all(client, b"[DONE]")
    assert text.count(b"HTTP/1.1 200 OK") == 3
    assert text.index(b"[DONE]") < text.index(b'"chat.completion"') < text.rindex(b"[DONE]")


def test_a_keep_alive_after_the_end_does_not_stop_the_server(tmp_path: Path) -> None:
    """An answer that ended, but waits for its reader: nobody else may notice."""
    limits = {"keepalive_s": 1.0}
    with (
        sim_server(tmp_path, SCRIPTS, send_buffer=8192, server=limits) as running,
        connect(running, request("short", stream=True)) as client,
    ):
        wait_until(lambda: busy(running, "short"), 20)
        wait_until(lambda: not busy(running, "short"), 4)
        ended = time.monotonic()
        while time.monotonic() - ended < 1.5:
            assert httpx.get(f"{running.url}/healthz", timeout=5).status_code == 200
        assert read_all(client, b"[DONE]").count(WORD.encode()) == 250
