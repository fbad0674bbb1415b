"""Streams against a socket that answers badly: every request ends, with its error, once."""

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from opta_lmx.backends.frames import Submit, TokenOut
from opta_lmx.backends.gguf.completion import CompletionReader
from opta_lmx.backends.gguf.streams import Ended, Happening, Job, Streams
from opta_lmx.backends.gguf.vocabulary import Vocabulary
from opta_lmx.core.types import SamplingParams

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"content": "a", "tokens": [4], "tokens_predicted": 1}\n\n'
LAST = b'data: {"content": "", "tokens": [2], "tokens_predicted": 2}\n\n'
END = b'data: {"stop_type": "eos", "tokens_predicted": 2}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Peer:
    """A UNIX socket that answers `/completion` with fixed bytes and `/slots` with idle slots."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self.answer: list[bytes] = []
        self.busy_polls = 0
        self.hang_up = threading.Event()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        # The client may hang up first: that is what some tests are about.
        with connection, suppress(OSError):
            request = connection.recv(65536)
            if request.startswith(b"GET /slots"):
                busy = b"true" if self.busy_polls > 0 else b"false"
                self.busy_polls -= 1
                body = b'[{"id": 0, "is_processing": %s}]' % busy
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(head + body)
                return
            for part in self.answer:
                connection.sendall(part)
            if not self.hang_up.is_set():
                connection.recv(1)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path)
    yield made
    made.close()


class Harness:
    def __init__(self, path: str) -> None:
        self.arrivals: queue.SimpleQueue[list[Happening]] = queue.SimpleQueue()
        self.streams = Streams(path, self.arrivals.put)

    def start(self, number: int = 1) -> None:
        request = Submit(number, (1,), SamplingParams(), 10)
        reader = CompletionReader(request, 100, Vocabulary({}))
        self.streams.start(Job(number, 0, msgspec.json.encode({}), reader))

    def until_ended(self) -> list[Happening]:
        items: list[Happening] = []
        while not any(isinstance(item, Ended) for item in items):
            items += self.arrivals.get(timeout=10)
        return items


def test_answer_cut_into_single_bytes(peer: Peer) -> None:
    whole = HEAD + chunk(b": ping\n\n" + TOKEN) + chunk(LAST + END) + b"0\r\n\r\n"
    peer.answer = [whole[place : place + 1] for place in range(len(whole))]
    harness = Harness(peer.path)
    harness.start()
    assert harness.until_ended() == [
        TokenOut(1, 4, b"a"),
        TokenOut(1, 2, b"", "stop"),
        Ended(1, None),
    ]


@pytest.mark.parametrize(
    ("answer", "words", "bad_request"),
    [
        (b"", "ended the answer early", False),
        (HEAD + chunk(TOKEN), "ended the answer early", False),
        (HEAD + chunk(b"data: {\n\n"), "cannot be read", False),
        (HEAD + chunk(b'data: {"error": {"code": 500, "message": "boom"}}\n\n'), "boom", False),
        (b"garbage\r\n\r\n", "ended the answer early", False),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 1\r\n\r\n}", "status 400", True),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "status 500", False),
    ],
)
def test_bad_answers_end_in_an_error(
    peer: Peer, answer: bytes, words: str, bad_request: bool
) -> None:
    peer.answer = [answer]
    peer.hang_up.set()
    peer.busy_polls = 2
    harness = Harness(peer.path)
    harness.start()
    ended = harness.until_ended()[-1]
    assert isinstance(ended, Ended)
    assert ended.error is not None
    assert words in str(ended.error)
    assert ended.error.bad_request is bad_request
    assert peer.busy_polls < 0, "the end was told before the slot was idle"


def test_cancelled_stream_ends_without_error_when_the_slot_is_idle(peer: Peer) -> None:
    peer.answer = [HEAD + chunk(TOKEN)]
    peer.busy_polls = 3
    harness = Harness(peer.path)
    harness.start()
    assert harness.arrivals.get(timeout=10) == [TokenOut(1, 4, b"a")]
    harness.streams.cancel(1)
    assert harness.until_ended() == [Ended(1, None)]
    assert peer.busy_polls < 0


def test_stream_cancelled_at_once_ends(peer: Peer) -> None:
    harness = Harness(peer.path)
    harness.start()
    harness.streams.cancel(1)
    assert harness.until_ended() == [Ended(1, None)]


def test_cancel_of_an_ended_request_does_not_reach_the_next(peer: Peer) -> None:
    peer.answer = [HEAD + chunk(TOKEN + LAST + END)]
    harness = Harness(peer.path)
    harness.start(1)
    harness.until_ended()
    harness.streams.cancel(1)
    harness.start(1)
    assert len(harness.until_ended()) == 3
