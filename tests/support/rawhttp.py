"""A bare HTTP/1.1 client on a socket, for what polite clients hide: partial reads and hang-ups."""

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit


def connected(
    url: str, *, receive_buffer: int | None = None, timeout_s: float = 20
) -> socket.socket:
    """A connection to a server; `receive_buffer` bounds what the kernel takes meanwhile (bytes)."""
    parts = urlsplit(url)
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(timeout_s)
    client.connect((parts.hostname, parts.port))
    return client


def read_to(client: socket.socket, marker: bytes) -> bytes:
    """What comes, up to where `marker` has arrived; some may have come behind it."""
    received = b""
    while marker not in received:
        data = client.recv(65536)
        assert data, received
        received += data
    return received


class RawExchange:
    """One request whose reply is read piece by piece."""

    def __init__(
        self,
        url: str,
        path: str,
        body: bytes | dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> None:
        self._socket = connected(url, timeout_s=30)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {urlsplit(url).netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self._socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        self.received = b""

    def read_until(self, marker: bytes, timeout_s: float = 30.0) -> bytes:
        """Read on until `marker` has arrived; everything received so far."""
        deadline = time.monotonic() + timeout_s
        while marker not in self.received:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._socket.recv(65536)
            assert data, f"closed before {marker!r}: {self.received[-300:]!r}"
            self.received += data
        return self.received

    def hang_up(self) -> None:
        """Close without reading the rest."""
        self._socket.close()
