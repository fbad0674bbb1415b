"""Incremental HTTP/1.1 response and server-sent-event parsing, with no I/O of its own.

Small on purpose: the client shares the machine with the server it measures.
"""

from dataclasses import dataclass, field

MAX_HEAD_BYTES = 64 * 1024
_BODYLESS = (204, 304)


class HttpError(Exception):
    """The peer's bytes are not a complete HTTP/1.1 response."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status code and headers (lower-case names; the last of repeated ones)."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


def parse_head(block: bytes) -> Head:
    """Parse a status line and header lines, without the blank line.

    Raises:
        HttpError: the block is no HTTP/1.x response head.
    """
    lines = block.decode("latin-1").replace("\r\n", "\n").split("\n")
    parts = lines[0].split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise HttpError(f"bad status line {lines[0][:80]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise HttpError(f"bad header line {line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    return Head(int(parts[1]), headers)


class ResponseParser:
    """Turns the bytes of one response into its body, however they are split.

    `head` is set once the headers are complete, `done` once the body is.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.done = False
        self._buffer = bytearray()
        self._chunked = False
        self._trailers = False
        self._left: int | None = 0

    def feed(self, data: bytes) -> bytes:
        """Add received bytes; return the body bytes that became available.

        Raises:
            HttpError: the bytes cannot be a response.
        """
        if self.head is not None and not self._chunked and not self.done:
            return self._plain(data)
        self._buffer += data
        if self.head is None and not self._read_head():
            return b""
        if self.done:
            return b""
        if self._chunked:
            return self._read_chunks()
        rest = bytes(self._buffer)
        self._buffer.clear()
        return self._plain(rest)

    def close(self) -> None:
        """Tell the parser that the peer closed the connection.

        Raises:
            HttpError: the response was not complete.
        """
        if self.head is not None and not self._chunked and self._left is None:
            self.done = True
        if not self.done:
            raise HttpError("connection closed in the middle of a response")

    def _read_head(self) -> bool:
        while self.head is None:
            block = self._take_head_block()
            if block is None:
                return False
            head = parse_head(block)
            if head.status >= 200:
                self._start_body(head)
        return True

    def _take_head_block(self) -> bytes | None:
        """Take the bytes up to the first blank line off the buffer, if it is there."""
        ends = [
            (at, len(mark))
            for mark in (b"\r\n\r\n", b"\n\n")
            if (at := self._buffer.find(mark)) >= 0
        ]
        if not ends:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise HttpError("response head too long")
            return None
        at, width = min(ends)
        block = bytes(self._buffer[:at])
        del self._buffer[: at + width]
        return block

    def _start_body(self, head: Head) -> None:
        self.head = head
        length = head.headers.get("content-length")
        self._chunked = head.headers.get("transfer-encoding", "").lower().endswith("chunked")
        if head.status in _BODYLESS:
            self.done = True
        elif self._chunked:
            self._left = 0
        elif length is None:
            self._left = None
        elif not length.isdigit():
            raise HttpError(f"bad content-length {length[:40]!r}")
        else:
            self._left = int(length)
            self.done = self._left == 0

    def _plain(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        part = data[: self._left]
        self._left -= len(part)
        self.done = self._left == 0
        return part

    def _read_chunks(self) -> bytes:
        """Take every whole or partial chunk that is in the buffer."""
        out = bytearray()
        buffer, at = self._buffer, 0
        while not self.done and at < len(buffer):
            if self._left:
                # Two more bytes than the chunk: its own line end is counted in `_left`.
                take = min(self._left, len(buffer) - at)
                payload = max(0, min(take, self._left - 2))
                out += buffer[at : at + payload]
                self._left -= take
                at += take
                continue
            end = buffer.find(b"\n", at)
            if end < 0:
                break
            self._chunk_line(bytes(buffer[at:end]).strip())
            at = end + 1
        del buffer[:at]
        return bytes(out)

    def _chunk_line(self, line: bytes) -> None:
        if self._trailers:
            self.done = not line
            return
        try:
            size = int(line.split(b";", 1)[0], 16)
        except ValueError:
            raise HttpError(f"bad chunk size {line[:40]!r}") from None
        if size < 0:
            raise HttpError(f"bad chunk size {line[:40]!r}")
        self._trailers = size == 0
        self._left = size + 2 if size else 0


class SseParser:
    """Collects bytes of a `text/event-stream` and returns the data of complete events.

    Lines may end in LF or CRLF; several `data:` lines of one event are joined by LF; comments
    and other fields are ignored.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; return the data of each event completed by them."""
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        events: list[bytes] = []
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return events
