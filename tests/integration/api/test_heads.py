"""Heads of requests on raw sockets: their size, their fields, and how slowly they come."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from opta_lmx.api.heads import MAX_HEAD_BYTES, MAX_HEADERS
from opta_lmx.api.http1 import MAX_HANDSHAKE_LINE_BYTES, protocol_class
from opta_lmx.server import uvicorn_config
from tests.support.rawhttp import connected, read_to

GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: localhost\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
TIMEOUT_S = 0.4


class Told:
    """Answers with the names of the headers it was given; `/slow` when told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        while scope["path"] != "/early" and (await receive()).get("more_body"):
            pass
        if scope["path"] == "/slow":
            await asyncio.to_thread(self.go_on.wait, 20)
        names = sorted({name.decode() for name, _ in scope["headers"]})
        body = json.dumps({"path": scope["path"], "headers": names}).encode()
        size = str(len(body)).encode()
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-length", size)]})
        await send({"type": "http.response.body", "body": body})


class Running:
    """A served application."""

    def __init__(self, url: str, app: Told) -> None:
        self.url = url
        self.app = app


@contextlib.contextmanager
def serving(app: Any, **changes: Any) -> Iterator[str]:
    """Serve an application as ours is; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn_config(app, body_limit_bytes=1024 * 1024, settle_s=1)
    for name, value in changes.items():
        setattr(config, name, value)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve([listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    app = Told()
    with serving(app) as url:
        yield Running(url, app)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Running]:
    app = Told()
    with serving(app, http=protocol_class(head_timeout_s=TIMEOUT_S)) as url:
        yield Running(url, app)


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def exchange(server: Running, *segments: bytes) -> bytes:
    """Send, and read to the end; a server that closes early reads no further."""
    with connected(server.url) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for segment in segments:
                client.sendall(segment)
        return rest(client)


def bodies(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(found) for found in re.findall(rb"\{.*?\}(?=HTTP|$)", text)]


def headers(count: int, size: int = 1) -> bytes:
    return b"".join(b"x-%d: %s\r\n" % (n, b"v" * size) for n in range(count))


def test_as_many_headers_as_may_be_are_taken(server: Running) -> None:
    text = exchange(server, GET + headers(MAX_HEADERS - 1) + b"\r\n" + LAST)
    assert [len(told["headers"]) for told in bodies(text)] == [MAX_HEADERS, 2]


@pytest.mark.parametrize(
    "head",
    [
        GET + headers(MAX_HEADERS) + b"\r\n",
        GET + headers(MAX_HEADERS * 20) + b"\r\n",
        GET + headers(20, MAX_HEAD_BYTES // 19) + b"\r\n",
        GET + b"x: " + b"v" * MAX_HEAD_BYTES + b"\r\n\r\n",
        GET + b"x" * MAX_HEAD_BYTES + b": v\r\n\r\n",
        b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["one more", "many", "long", "value", "name", "path"],
)
@pytest.mark.parametrize("piece", [1000, 1_000_000])
def test_what_is_too_large_is_refused(server: Running, head: bytes, piece: int) -> None:
    text = exchange(server, *(head[at : at + piece] for at in range(0, len(head), piece)))
    assert text.startswith(b"HTTP/1.1 431 ")
    (told,) = re.findall(rb'"code":"([a-z_]+)"', text)
    assert told == b"headers_too_large"


@pytest.mark.parametrize(
    "trailers", [headers(MAX_HEADERS), b"x: " + b"v" * MAX_HEAD_BYTES + b"\r\n"]
)
@pytest.mark.parametrize("piece", [1000, 1_000_000])
def test_too_large_trailers_end_the_connection(
    server: Running, trailers: bytes, piece: int
) -> None:
    sent = POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"\r\n" + LAST
    text = exchange(server, *(sent[at : at + piece] for at in range(0, len(sent), piece)))
    assert b"/last" not in text
    assert text.startswith(b"HTTP/1.1 431 ")
    assert text.count(b"HTTP/1.1") == 1


BROKEN_CHUNK = b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n"


@pytest.mark.parametrize(
    "sent", [POST + BROKEN_CHUNK, b"BREW /x\r\n\r\n", GET + b"\x00: y\r\n\r\n"]
)
def test_what_is_no_http_is_told_so(server: Running, sent: bytes) -> None:
    text = exchange(server, sent)
    assert text.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_http"' in text
    assert text.count(b"HTTP/1.1") == 1


def test_what_is_no_http_is_not_answered_in_place_of_another(server: Running) -> None:
    server.app.go_on.clear()
    try:
        text = exchange(
            server, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n" + POST + BROKEN_CHUNK
        )
    finally:
        server.app.go_on.set()
    assert text == b""


def sent_until_cut(client: socket.socket, filler: bytes) -> int:
    """Send as much as the server lets; bytes, of which the kernel may hold a few million."""
    sent = 0
    while sent < 100 * 1024 * 1024:
        try:
            sent += client.send(filler)
        except ConnectionError:
            break
    return sent


@pytest.mark.parametrize("begin", [GET + b"x: ", b"GET /", GET, b"\r\n"])
def test_a_head_without_end_is_cut(server: Running, begin: bytes) -> None:
    filler = b"\r\n" * 4096 if begin == b"\r\n" else b"v" * 8192
    with connected(server.url) as client:
        client.sendall(begin)
        assert sent_until_cut(client, filler) < 20 * 1024 * 1024
    assert exchange(server, LAST).startswith(b"HTTP/1.1 200 ")


def test_a_chunk_extension_without_end_is_cut(server: Running) -> None:
    with connected(server.url) as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n1;")
        assert sent_until_cut(client, b"v" * 8192) < 20 * 1024 * 1024


def test_a_large_body_is_no_head(server: Running) -> None:
    size = 20 * MAX_HEAD_BYTES
    sized = POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    text = exchange(server, sized + chunked + sized + LAST)
    assert text.count(b"HTTP/1.1 200 OK") == 4


def test_trailers_are_no_headers(server: Running) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\nTrailer: x-api-key\r\n\r\n1\r\nx\r\n0\r\n"
    text = exchange(server, chunked + b"X-Api-Key: k\r\nX-Forwarded-For: ::1\r\n\r\n" + LAST)
    first, last = bodies(text)
    assert first["headers"] == ["host", "trailer", "transfer-encoding"]
    assert last["path"] == "/last"


@pytest.mark.parametrize(
    ("path", "extra", "status"),
    [
        (b"/x", b"", b"403"),
        (b"/x", b"x: " + b"v" * MAX_HANDSHAKE_LINE_BYTES + b"\r\n", b"431"),
        (b"/x", b"x: " + b"v" * (MAX_HANDSHAKE_LINE_BYTES - 1) + b"\r\n", b"403"),
        (b"/" + b"x" * MAX_HANDSHAKE_LINE_BYTES, b"", b"431"),
        (b"/" + b"x" * (MAX_HANDSHAKE_LINE_BYTES - 1), b"", b"403"),
        (b"/x", headers(MAX_HEADERS - 5), b"403"),
        (b"/x", headers(MAX_HEADERS - 4), b"431"),
    ],
)
def test_a_handshake_is_answered_whatever_its_size(
    server: Running, path: bytes, extra: bytes, status: bytes
) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    text = exchange(server, b"GET " + path + GET[6:] + upgrade + extra + b"\r\n")
    assert text.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("sent", [GET, GET + b"x: y\r\n", b"G"])
def test_a_head_that_stops_arriving_is_refused(hasty: Running, sent: bytes) -> None:
    began = time.monotonic()
    text = exchange(hasty, sent)
    assert time.monotonic() - began < 10
    assert text.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in text


@pytest.mark.parametrize("first", [b"", LAST.replace(b"close", b"keep-alive")])
@pytest.mark.parametrize("dribble", [GET + b"x: " + b"v" * 10_000, b"\r\n" * 5000])
def test_who_dribbles_is_cut(hasty: Running, first: bytes, dribble: bytes) -> None:
    with connected(hasty.url) as client:
        if first:
            client.sendall(first)
            read_to(client, b"}")
        client.settimeout(0.01)
        began = time.monotonic()
        assert until_cut(client, dribble)
        assert time.monotonic() - began < 10


def until_cut(client: socket.socket, dribble: bytes) -> bool:
    """Send byte by byte until the server closes; False when it never does."""
    for at in range(len(dribble)):
        try:
            client.sendall(dribble[at : at + 1])
            if b"HTTP" not in client.recv(65536):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


def test_who_says_nothing_is_cut(hasty: Running) -> None:
    assert exchange(hasty) == b""


def test_the_rest_of_a_body_that_nobody_wants_has_its_time_too(hasty: Running) -> None:
    with connected(hasty.url) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
        read_to(client, b"}")
        client.settimeout(0.01)
        assert until_cut(client, b"x" * 10_000)


def test_an_answer_that_takes_long_is_not_cut_for_what_follows_it(hasty: Running) -> None:
    slow = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
    hasty.app.go_on.clear()
    with connected(hasty.url) as client:
        client.sendall(slow + LAST[:20])
        client.settimeout(3 * TIMEOUT_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        hasty.app.go_on.set()
        read_to(client, b"}")
        client.sendall(LAST[20:])
        assert b"/last" in rest(client)


EARLY = b"POST /early HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def impatient() -> Iterator[Running]:
    """Keeps idle connections for a moment only, and gives heads much longer."""
    app = Told()
    with serving(app, timeout_keep_alive=TIMEOUT_S) as url:
        yield Running(url, app)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (EARLY + b"Content-Length: 6\r\n\r\nabc", b"def"),
        (EARLY + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"3\r\ndef\r\n0\r\n\r\n"),
        (EARLY + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"0\r\nx: y\r\n\r\n"),
    ],
)
def test_a_connection_answered_within_a_body_is_kept_no_longer(
    impatient: Running, begin: bytes, end: bytes
) -> None:
    with connected(impatient.url) as client:
        client.sendall(begin)
        read_to(client, b"}")
        client.sendall(end)
        assert rest(client) == b""


def test_it_is_still_good_for_another_request(impatient: Running) -> None:
    with connected(impatient.url) as client:
        client.sendall(EARLY + b"Content-Length: 6\r\n\r\nabc")
        read_to(client, b"}")
        client.sendall(b"def")
        client.sendall(LAST)
        assert b"/last" in rest(client)


def test_a_request_behind_such_a_body_is_not_cut(impatient: Running) -> None:
    impatient.app.go_on.clear()
    with connected(impatient.url) as client:
        client.sendall(EARLY + b"Content-Length: 6\r\n\r\nabc")
        read_to(client, b"}")
        client.sendall(b"defGET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.settimeout(3 * TIMEOUT_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        impatient.app.go_on.set()
        assert b"/slow" in read_to(client, b"}")


def test_a_line_end_during_an_answer_does_not_end_the_connection(hasty: Running) -> None:
    hasty.app.go_on.clear()
    with connected(hasty.url) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.sendall(b"\r\n")
        client.settimeout(2 * TIMEOUT_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        client.sendall(b"\r\n")
        hasty.app.go_on.set()
        read_to(client, b"}")
        client.settimeout(3 * TIMEOUT_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        client.sendall(LAST)
        assert b"/last" in rest(client)
