"""TLS connections that go wrong, and the rules for connections that hold under TLS as well."""

import contextlib
import json
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from opta_lmx.api.encryption import Encryption, HttpServer
from opta_lmx.api.http1 import protocol_class
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.security.tls import listener as listening
from opta_lmx.security.tls.contexts import Tls, TlsFiles
from opta_lmx.server import uvicorn_config
from tests.support.certificates import Authority, section, trusting
from tests.support.rawhttp import connected
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import WsClient

HASTY_S = 0.5
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


class Place:
    """A server that gives handshakes little time."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.server: LiveServer

    def tls(self) -> dict[str, Any]:
        ca = str(self.authority.file)
        return section(
            self.authority.server(),
            handshake_timeout_s=HASTY_S,
            client_ca=ca,
            client_certificates="optional",
        )

    def secured(self, *, newest: bool = True) -> ssl.SSLSocket:
        raw = connected(self.server.url)
        context = trusting(self.authority.file, newest=newest)
        return context.wrap_socket(raw, server_hostname="localhost")

    def failures(self, reason: str) -> float:
        with httpx.Client(verify=trusting(self.authority.file)) as client:
            text = client.get(f"{self.server.url}/metrics").text
        name = f'opta_lmx_tls_handshake_failures_total{{reason="{reason}"}} '
        found = [line for line in text.splitlines() if line.startswith(name)]
        return float(found[0].removeprefix(name)) if found else 0.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("ca"))
    home = tmp_path_factory.mktemp("home")
    with sim_server(
        home, {"m": {}}, tls=made.tls(), write_timeout_s=1.0, send_buffer=65536
    ) as server:
        made.server = server
        yield made


def until_closed(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            received += data
    return received


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_come_is_cut(place: Place, sent: bytes) -> None:
    before = place.failures("timeout")
    with connected(place.server.url) as client:
        began = time.monotonic()
        client.sendall(sent)
        assert until_closed(client) == b""
        assert HASTY_S / 2 < time.monotonic() - began < 10 * HASTY_S
    wait_until(lambda: place.failures("timeout") > before)


def test_a_handshake_by_single_bytes_is_cut(place: Place) -> None:
    hello = ssl.MemoryBIO()
    context = trusting(place.authority.file)
    talk = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    began = time.monotonic()
    with connected(place.server.url, timeout_s=0.02) as client:
        for byte in hello.read()[:-1]:
            try:
                client.sendall(bytes([byte]))
                if client.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it may go on for good")
    assert time.monotonic() - began < 10 * HASTY_S


@pytest.mark.parametrize("sent", [GET + b"\r\n", b"\0" * 64, b"SSH-2.0-x\r\n"])
def test_what_is_no_tls_is_closed(place: Place, sent: bytes) -> None:
    before = sum(place.failures(reason) for reason in ("plain_http", "not_tls", "other"))
    with connected(place.server.url) as client:
        client.sendall(sent)
        assert b"HTTP" not in until_closed(client)
    wait_until(
        lambda: sum(place.failures(one) for one in ("plain_http", "not_tls", "other")) > before
    )


def test_old_versions_are_refused(place: Place) -> None:
    context = trusting(place.authority.file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with connected(place.server.url) as raw, pytest.raises(OSError, match=r".*"):
        context.wrap_socket(raw, server_hostname="localhost")


def test_reasons_are_counted(place: Place, tmp_path: Path) -> None:
    foreign = Authority(tmp_path)
    cases = {
        "certificate_untrusted": foreign.bot("t1", "a"),
        "certificate_expired": place.authority.bot("t1", "late", days_ago=3),
    }
    for reason, shown in cases.items():
        before = place.failures(reason)
        with (
            httpx.Client(verify=trusting(place.authority.file, shown)) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.get(f"{place.server.url}/healthz")
        assert place.failures(reason) == before + 1


def test_a_client_that_does_not_trust_the_server_is_counted(place: Place, tmp_path: Path) -> None:
    before = place.failures("client_refused")
    with (
        httpx.Client(verify=trusting(Authority(tmp_path).file)) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get(f"{place.server.url}/healthz")
    wait_until(lambda: place.failures("client_refused") > before)


def test_a_crowd_of_handshakes_keeps_nobody_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MAX_HANDSHAKES", 4)
    before = place.failures("crowded")
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connected(place.server.url))
        with place.secured() as client:
            client.sendall(GET + b"Connection: close\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
    assert place.failures("crowded") - before >= 8


def test_requests_know_their_connection(place: Place) -> None:
    """What ASGI says of TLS, for HTTP and WebSocket; nothing where there is none."""
    seen: list[dict[str, Any]] = []
    bot = place.authority.make("t1-seen", uri="spiffe://opta/tenant/t1/seen", tenant="t1")
    app = place.server.app.http
    inner = app.middleware_stack = app.build_middleware_stack()

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope))
        await inner(scope, receive, send)

    app.middleware_stack = watching
    try:
        with httpx.Client(verify=trusting(place.authority.file, bot, newest=True)) as client:
            client.get(f"{place.server.url}/v1/models")
        options = {"ssl": trusting(place.authority.file, newest=False)}
        with WsClient(place.server.url, server_hostname="localhost", **options) as client:
            client.ask("a")
            client.until("a")
    finally:
        app.middleware_stack = inner
    http, websocket = seen
    assert (http["scheme"], websocket["scheme"]) == ("https", "wss")
    told = http["extensions"]["tls"]
    assert told["client_cert_name"] == "O=t1,CN=t1-seen"
    assert told["client_cert_chain"][0] == bot[0].read_text()
    assert told["tls_version"] == 0x0304
    assert told["cipher_suite"] in (0x1301, 0x1302, 0x1303)
    assert told["client_cert_error"] is None
    assert told["server_cert"] == (place.authority.folder / "server.pem").read_text()
    plain = websocket["extensions"]["tls"]
    assert (plain["client_cert_name"], plain["client_cert_chain"]) == (None, [])
    assert plain["tls_version"] == 0x0303
    assert plain["cipher_suite"] is not None


@pytest.mark.parametrize("newest", [False, True], ids=["1.2", "1.3"])
def test_pipelined_and_large_requests_pass(place: Place, newest: bool) -> None:
    with place.secured(newest=newest) as client:
        client.sendall(GET + b"\r\n" + GET + b"Connection: close\r\n\r\n")
        assert until_closed(client).count(b"HTTP/1.1 200") == 2
    body = json.dumps({"model": "m", "prompt": "word " * 200_000}).encode()
    with httpx.Client(verify=trusting(place.authority.file, newest=newest)) as client:
        reply = client.post(f"{place.server.url}/v1/completions", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_who_stops_reading_is_cut(place: Place) -> None:
    """As without TLS: what waits for a client is bounded, in bytes and in time."""
    wait_until(lambda: not connections(place))
    raw = connected(place.server.url, receive_buffer=65536)
    context = trusting(place.authority.file)
    with context.wrap_socket(raw, server_hostname="localhost") as client:
        with contextlib.suppress(OSError):
            client.sendall((GET + b"\r\n") * 8_000)
        wait_until(lambda: not connections(place))


def connections(place: Place) -> int:
    return len(place.server.state.connections)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything."""
    start = {"type": "http.response.start", "status": 200}
    await send({**start, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def hasty_heads(authority: Authority) -> Iterator[str]:
    """A server under TLS that gives heads of requests little time; its URL."""
    files = TlsFiles(*authority.server("hasty"))
    config = uvicorn_config(hello, body_limit_bytes=1024, settle_s=1)
    config.http = protocol_class(head_timeout_s=HASTY_S)
    encryption = Encryption(Tls(files, NullTelemetry()), 5.0)
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(config, encryption, SystemClock(), NullTelemetry())
    thread = threading.Thread(target=lambda: uvloop.run(server.serve([listener])))
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def test_heads_have_their_time_under_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with hasty_heads(authority) as url:
        for sent, reply in ((GET, b"HTTP/1.1 408"), (b"", b"")):
            raw = connected(url)
            with trusting(authority.file).wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(sent)
                assert until_closed(client)[:12] == reply
        raw = connected(url)
        with trusting(authority.file).wrap_socket(raw, server_hostname="localhost") as client:
            client.sendall(GET + b"Connection: close\r\n\r\n")
            assert until_closed(client).endswith(b"ok")


def test_a_server_ends_in_the_midst_of_handshakes(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with contextlib.ExitStack() as stack:
        with hasty_heads(authority) as url:
            waiting = [stack.enter_context(connected(url)) for _ in range(3)]
            began = time.monotonic()
        assert time.monotonic() - began < 4
        assert [until_closed(client) for client in waiting] == [b""] * 3
