"""Under TLS a client that stops reading is cut too, one that is only late gets everything."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.test_slow_readers import (
    SCRIPTS,
    WORD,
    WRITE_TIMEOUT_S,
    busy,
    read_all,
    request,
)
from tests.support.certificates import Authority, section, trusting
from tests.support.rawhttp import connected
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def secured(home: Path, authority: Authority, **options: Any) -> Any:
    tls = section(authority.server())
    return sim_server(home, SCRIPTS, send_buffer=8192, tls=tls, **options)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[LiveServer]:
    """A server that waits long for a reader."""
    with secured(tmp_path_factory.mktemp("home"), authority) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[LiveServer]:
    """A server that waits `WRITE_TIMEOUT_S` for a reader."""
    home = tmp_path_factory.mktemp("home")
    with secured(home, authority, write_timeout_s=WRITE_TIMEOUT_S) as running:
        yield running


def connect(server: LiveServer, authority: Authority, *requests: bytes) -> ssl.SSLSocket:
    """Send requests over a connection whose kernel buffer is small; read nothing."""
    raw = connected(server.url, receive_buffer=8192)
    client = trusting(authority.file).wrap_socket(raw, server_hostname="localhost")
    client.sendall(b"".join(requests))
    return client


def is_cut(client: socket.socket) -> bool:
    """True when the connection ended before its answer was whole."""
    received = bytearray()
    with suppress(OSError):  # an end without TLS's own farewell is one of them
        while data := client.recv(65536):
            received += data
    return b"[DONE]" not in received


def test_who_stops_reading_under_tls_is_cut_though_the_engine_is_idle(
    strict: LiveServer, authority: Authority
) -> None:
    with connect(strict, authority, request("short", stream=True)) as client:
        wait_until(lambda: strict.state.tasks, 20)
        wait_until(lambda: not strict.state.tasks and not strict.state.connections, 10)
        assert is_cut(client)
    assert not busy(strict, "short")


def test_who_falls_too_far_behind_under_tls_is_cut_while_the_engine_runs(
    patient: LiveServer, authority: Authority
) -> None:
    with connect(patient, authority, request("endless", stream=True)) as client:
        wait_until(lambda: busy(patient, "endless"), 20)
        wait_until(lambda: not busy(patient, "endless"), 6)
        wait_until(lambda: not patient.state.tasks and not patient.state.connections, 2)
        assert is_cut(client)


def test_who_reads_late_under_tls_but_reads_gets_everything(
    strict: LiveServer, authority: Authority
) -> None:
    with connect(strict, authority, request("short", stream=True)) as client:
        received = read_all(client, b"[DONE]", 4096)
    assert received.count(WORD.encode()) == 250


def test_a_hang_up_under_tls_frees_the_slot(patient: LiveServer, authority: Authority) -> None:
    with connect(patient, authority, request("slow", stream=True)):
        wait_until(lambda: busy(patient, "slow"), 20)
    wait_until(lambda: not busy(patient, "slow"), 2)
    wait_until(lambda: not patient.state.tasks and not patient.state.connections, 2)
