"""What a slow reader has not taken is kept in order, and bounded."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from opta_lmx.api.streaming import MAX_BACKLOG_BYTES, ClientGone, SlowReader
from opta_lmx.api.ws_connection import Outbox


class Client:
    """A connection whose client reads only while `reading` is set."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.aborted = False
        self.error: Exception | None = None

    def writable(self) -> bool:
        return self.reading.is_set()

    def abort(self) -> None:
        self.aborted = True

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        if self.error is not None:
            raise self.error
        self.received.append(message["text"])


def played(play: Callable[[Client, Outbox], Awaitable[None]]) -> Client:
    async def run() -> Client:
        client = Client()
        await play(client, Outbox(client.send, client))
        return client

    return asyncio.run(asyncio.wait_for(run(), 10))


def test_frames_keep_their_order_through_a_pause() -> None:
    async def play(client: Client, outbox: Outbox) -> None:
        await outbox.send(b"0")
        client.reading.clear()
        for number in range(1, 5):
            await outbox.send(b"%d" % number)
        assert client.received == ["0"]
        client.reading.set()
        await outbox.send(b"5")
        await outbox.drain()
        await outbox.send(b"6")

    assert played(play).received == ["0", "1", "2", "3", "4", "5", "6"]


def test_too_much_unread_cuts_the_client() -> None:
    async def play(client: Client, outbox: Outbox) -> None:
        client.reading.clear()
        frame = b"x" * (MAX_BACKLOG_BYTES // 4)
        for _ in range(4):
            await outbox.send(frame)
        with pytest.raises(SlowReader):
            await outbox.send(b"y")
        assert outbox.closed
        with pytest.raises(ClientGone):
            await outbox.send(b"z")

    assert played(play).aborted


@pytest.mark.parametrize("error", [OSError(), WebSocketDisconnect(1006)])
def test_a_closed_connection_is_a_client_that_is_gone(error: Exception) -> None:
    async def play(client: Client, outbox: Outbox) -> None:
        client.error = error
        with pytest.raises(ClientGone):
            await outbox.send(b"x")
        with pytest.raises(ClientGone):
            await outbox.send(b"x")

    played(play)


def test_a_connection_that_closes_while_frames_wait_ends_quietly() -> None:
    async def play(client: Client, outbox: Outbox) -> None:
        client.reading.clear()
        await outbox.send(b"x")
        client.error = OSError()
        client.reading.set()
        await outbox.drain()
        assert outbox.closed

    played(play)
