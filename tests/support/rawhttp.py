"""A bare HTTP/1.1 client on a socket, for what polite clients hide: partial reads and hang-ups."""

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit


class RawExchange:
    """One request whose reply is read piece by piece."""

    def __init__(
        self,
        url: str,
        path: str,
        body: bytes | dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {parts.netloc}",
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
