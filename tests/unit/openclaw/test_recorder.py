import http.client
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from scripts.openclaw.recorder import Exchange, Recorder, request_bytes

CHUNKED = b"HTTP/1.1 200 OK\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
Serve = Callable[[socket.socket], None]


@contextmanager
def behind(serve: Serve) -> Generator[Recorder]:
    """A recorder before a server that answers one connection as told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        with Recorder(*listener.getsockname()) as recorder:
            yield recorder
        thread.join(10)
        assert not thread.is_alive()


def connect(recorder: Recorder) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(recorder.url.removeprefix("http://"), timeout=10)


def receive(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = connection.recv(65_536)
        assert more
        data += more
    return data


def test_a_request_arrives_as_it_was_sent_and_the_reply_comes_back() -> None:
    got: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        got.append(receive(connection, b'{"a": 1}'))
        connection.sendall(b"HTTP/1.1 429 No\r\nretry-after: 7\r\nContent-Length: 2\r\n\r\n{}")

    with behind(serve) as recorder:
        client = connect(recorder)
        client.request("POST", "/v1/x?y=1", b'{"a": 1}', {"X-Own": "me", "Authorization": "key"})
        reply = client.getresponse()
        assert (reply.status, reply.headers["retry-after"], reply.read()) == (429, "7", b"{}")
        (exchange,) = recorder.exchanges
        client.close()
    head = got[0].lower()
    assert head.startswith(b"post /v1/x?y=1 http/1.1\r\n")
    assert b"\r\nx-own: me\r\n" in head
    assert head.count(b"content-length:") == 1
    assert (exchange.method, exchange.path, exchange.body) == ("POST", "/v1/x?y=1", b'{"a": 1}')
    assert ("X-Own", "me") in exchange.headers
    assert (exchange.status, exchange.reply_headers["retry-after"]) == (429, "7")
    assert exchange.complete


def test_words_are_passed_on_at_once_and_after_the_watcher_saw_them() -> None:
    read = threading.Event()
    watched: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        receive(connection, b"\r\n\r\n")
        connection.sendall(CHUNKED + b"3\r\none\r\n")
        assert read.wait(10)
        connection.sendall(b"3\r\ntwo\r\n0\r\n\r\n")

    with behind(serve) as recorder:
        recorder.watch(lambda exchange: watched.append(bytes(exchange.reply)))
        client = connect(recorder)
        client.request("GET", "/")
        reply = client.getresponse()
        assert reply.read(3) == b"one"
        assert watched[-1] == b"one"
        read.set()
        assert reply.read() == b"two"
        (exchange,) = recorder.exchanges
        client.close()
    assert (bytes(exchange.reply), exchange.complete) == (b"onetwo", True)
    assert exchange.ended is not None


def test_a_cut_reply_is_cut_for_the_client_too() -> None:
    def serve(connection: socket.socket) -> None:
        receive(connection, b"\r\n\r\n")
        connection.sendall(CHUNKED + b"3\r\none\r\n")

    with behind(serve) as recorder:
        client = connect(recorder)
        client.request("GET", "/")
        reply = client.getresponse()
        with pytest.raises(http.client.IncompleteRead):
            reply.read()
        (exchange,) = recorder.exchanges
        client.close()
    assert (bytes(exchange.reply), exchange.complete, exchange.left) == (b"one", False, False)


def test_a_client_that_leaves_is_seen_by_the_server() -> None:
    gone = threading.Event()

    def serve(connection: socket.socket) -> None:
        receive(connection, b"\r\n\r\n")
        connection.sendall(CHUNKED)
        assert connection.recv(1) == b""
        gone.set()

    with behind(serve) as recorder:
        client = connect(recorder)
        client.request("GET", "/")
        client.getresponse().close()
        client.close()
        assert gone.wait(10)
        assert recorder.exchanges[0].left


def test_a_server_that_is_not_there_is_a_closed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    with Recorder(host, port) as recorder:
        client = connect(recorder)
        client.request("GET", "/")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            client.getresponse()
        assert [one.status for one in recorder.exchanges] == [0]


def test_one_request_a_connection_is_asked_for() -> None:
    exchange = Exchange("POST", "/x", [("Connection", "keep-alive"), ("Expect", "100-continue")])
    lines = request_bytes(exchange).split(b"\r\n")
    assert lines == [b"POST /x HTTP/1.1", b"Connection: close", b"Content-Length: 0", b"", b""]
