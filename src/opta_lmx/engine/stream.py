"""The tokens of one running request on their way from the worker to whoever serves it."""

import asyncio
from collections import deque

from opta_lmx.backends.frames import TokenOut
from opta_lmx.core.errors import ErrorKind, LmxError

MAX_BUFFERED_TOKENS = 65_536
MAX_BUFFERED_BYTES = 1024 * 1024
"""Bytes of text; both bounds are far beyond what a reader that lives leaves waiting."""


class TokenStream:
    """An asynchronous iterator of tokens with a bound; it ends after a token with `finish`."""

    def __init__(self) -> None:
        self._tokens: deque[TokenOut] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: LmxError | None = None
        self._read_all = False
        self._started = False
        self.ids: list[int] = []
        """Of all tokens that have come, read or not."""
        self.finished = False
        """The last token has come."""
        self.cached_tokens = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0

    @property
    def over(self) -> bool:
        """Nothing more is to come."""
        return self.finished or self._error is not None

    def begin(self, cached: int) -> None:
        """The prompt is being processed, of which `cached` tokens were there already.

        An answer that goes on after a pause keeps the number of its beginning.
        """
        if not self._started:
            self._started, self.cached_tokens = True, cached

    def restart(self) -> None:
        """The worker is gone; without any token so far, everything begins anew."""
        self._started = bool(self.ids)

    def guess(self, tokens: int, accepted: int) -> None:
        """A draft model guessed so many more tokens; the model accepted `accepted` of them."""
        self.drafted_tokens += tokens
        self.accepted_tokens += accepted

    def push(self, token: TokenOut) -> None:
        """Add a token; a reader that fell too far behind is cut with an error.

        What comes after an error is dropped, so that the reader never sees an answer with a gap.
        """
        if self.over:
            return
        if len(self._tokens) >= MAX_BUFFERED_TOKENS or self._bytes >= MAX_BUFFERED_BYTES:
            self.fail(
                LmxError(
                    ErrorKind.REQUEST_TIMEOUT,
                    "The client reads too slowly; the stream was cut.",
                    code="slow_reader",
                )
            )
            return
        self._tokens.append(token)
        self._bytes += len(token.piece)
        self.ids.append(token.id)
        self.finished = token.finish is not None
        self._wake()

    def fail(self, error: LmxError) -> None:
        """End the stream with an error, after the tokens already here; a whole answer has none."""
        if not self.over:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> "TokenStream":
        return self

    async def __anext__(self) -> TokenOut:
        """Next token. Raises the error the stream ended with."""
        if self._read_all:
            raise StopAsyncIteration
        while not self._tokens:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        token = self._tokens.popleft()
        self._bytes -= len(token.piece)
        self._read_all = token.finish is not None
        return token
