"""Talks HTTP to llama.cpp over its UNIX socket: one connection per exchange, none kept alive.

A connection reused under load was once seen closed without an answer; opening one on a UNIX
socket costs less than a decode step.
"""

import asyncio
import http.client
import socket
from collections.abc import Callable
from typing import Any

import httptools
import msgspec

from opta_lmx.backends.gguf.completion import failure

OK = 200
_MAX_ERROR_BYTES = 64 * 1024
_TIMEOUT_S = 120.0


class _UnixConnection(http.client.HTTPConnection):
    """The standard library's client, on a UNIX socket."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("llama", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(path: str, endpoint: str, payload: Any = None, *, bounded: bool = True) -> Any:
    """Make one blocking exchange and return the decoded JSON.

    Args:
        path: the socket.
        endpoint: such as `/tokenize`.
        payload: JSON to POST; None makes it a GET.
        bounded: False where somebody else ends what takes too long.

    Raises:
        EngineAnswerError: llama.cpp answered with an error.
        OSError, http.client.HTTPException: it did not answer.
    """
    connection = _UnixConnection(path, _TIMEOUT_S if bounded else None)
    try:
        headers = {"Connection": "close", "Content-Type": "application/json"}
        body = None if payload is None else msgspec.json.encode(payload)
        connection.request("GET" if body is None else "POST", endpoint, body, headers)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if answer.status != OK:
        raise failure(answer.status, data)
    return msgspec.json.decode(data)


class EventStream(asyncio.Protocol):
    """One POST answered by server-sent events, handed to `on_event` as they come.

    `on_close` is called once, when the connection ends for whatever reason, with the error
    answer's status and body if there was one.
    """

    def __init__(
        self,
        endpoint: str,
        body: bytes,
        on_event: Callable[[bytes], None],
        on_close: Callable[[int, bytes], None],
    ) -> None:
        self._request = _head(endpoint, len(body)) + body
        self._on_event = on_event
        self._on_close = on_close
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._status = 0
        self._pending = b""

    def close(self) -> None:
        """Drop the connection: llama.cpp stops when it next writes to it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the owner."""
        error = self._pending if self._status != OK else b""
        self._on_close(self._status, error)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Called by the parser with a part of the body, chunk framing removed."""
        self._pending += data
        if self._status != OK:
            self._pending = self._pending[:_MAX_ERROR_BYTES]
            return
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                self._on_event(line[6:])

    def on_message_complete(self) -> None:
        """Called by the parser: nothing more will come."""
        self.close()


def _head(endpoint: str, length: int) -> bytes:
    return (
        f"POST {endpoint} HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
