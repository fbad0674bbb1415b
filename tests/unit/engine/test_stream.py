"""Tokens on their way to a reader: in order, bounded in number and bytes, ended once."""

import asyncio

import pytest

from opta_lmx.backends.frames import TokenOut
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine import stream as module
from opta_lmx.engine.stream import MAX_BUFFERED_BYTES, TokenStream


def token(n: int, piece: bytes = b"x", *, last: bool = False) -> TokenOut:
    return TokenOut(1, n, piece, "stop" if last else None)


async def read(stream: TokenStream) -> tuple[list[int], LmxError | None]:
    seen: list[int] = []
    while True:
        try:
            seen.append((await stream.__anext__()).id)
        except StopAsyncIteration:
            return seen, None
        except LmxError as error:
            return seen, error


def test_tokens_come_in_order_and_end_with_the_last() -> None:
    async def main() -> None:
        stream = TokenStream()
        reading = asyncio.ensure_future(read(stream))
        for n in range(3):
            stream.push(token(n, last=n == 2))
            await asyncio.sleep(0)
        assert await reading == ([0, 1, 2], None)

    asyncio.run(main())


def test_bytes_are_bounded() -> None:
    stream = TokenStream()
    piece = b"x" * (MAX_BUFFERED_BYTES // 4)
    for n in range(6):
        stream.push(token(n, piece))
    seen, error = asyncio.run(read(stream))
    assert seen == [0, 1, 2, 3]
    assert error is not None
    assert (error.kind, error.code) == (ErrorKind.REQUEST_TIMEOUT, "slow_reader")


def test_the_number_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED_TOKENS", 3)
    stream = TokenStream()
    for n in range(5):
        stream.push(token(n, b""))
    seen, error = asyncio.run(read(stream))
    assert seen == [0, 1, 2]
    assert error is not None


def test_what_was_read_no_longer_counts() -> None:
    async def main() -> None:
        stream = TokenStream()
        for n in range(8):
            stream.push(token(n, b"x" * (MAX_BUFFERED_BYTES // 2)))
            assert (await stream.__anext__()).id == n

    asyncio.run(main())


def test_no_token_follows_a_gap() -> None:
    async def main() -> None:
        stream = TokenStream()
        stream.push(token(0, b"x" * MAX_BUFFERED_BYTES))
        stream.push(token(1))
        await stream.__anext__()
        stream.push(token(2, last=True))
        seen, error = await read(stream)
        assert seen == []
        assert error is not None

    asyncio.run(main())


def test_an_error_comes_after_the_tokens_already_here() -> None:
    stream = TokenStream()
    stream.push(token(0))
    stream.fail(LmxError(ErrorKind.INTERNAL, "first"))
    stream.fail(LmxError(ErrorKind.INTERNAL, "second"))
    seen, error = asyncio.run(read(stream))
    assert seen == [0]
    assert error is not None
    assert error.message == "first"


def test_guesses_are_counted_over_pauses() -> None:
    stream = TokenStream()
    stream.guess(4, 3)
    stream.restart()
    stream.guess(2, 0)
    assert (stream.drafted_tokens, stream.accepted_tokens) == (6, 3)
