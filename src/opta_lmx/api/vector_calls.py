"""Embedding and rerank calls over HTTP, in every dialect: how many places, and the answer."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec
from starlette.responses import Response

from opta_lmx.api.calls import Calls, ignored_header
from opta_lmx.api.fields import Read
from opta_lmx.api.json_body import Head, read_head
from opta_lmx.api.streaming import PlainAnswer
from opta_lmx.serving.embedding import EmbeddingService

_BREATH = 32
"""Vectors written as text before others get their turn."""
_Call = TypeVar("_Call")
_Made_co = TypeVar("_Made_co", covariant=True)
_Whole = TypeVar("_Whole")


class _Run(Protocol[_Made_co]):
    async def made(self) -> _Made_co: ...

    def close(self) -> None: ...


def one_place(body: bytes) -> Head:
    """What the first gate needs to know, of a call that needs one place. Raises LmxError."""
    return msgspec.structs.replace(read_head(body), answers=1)


class VectorCalls:
    """Answers requests for vectors and scores.

    Args:
        calls: reads and admits requests.
        service: runs the calls.
    """

    def __init__(self, calls: Calls, service: EmbeddingService) -> None:
        self.calls = calls
        self.service = service

    async def written(
        self, vectors: Sequence[bytes], write: Callable[[int, bytes], bytes]
    ) -> bytes:
        """Each vector as JSON, with commas between, while others get their turn.

        Args:
            vectors: as in `Vectors`.
            write: gives the JSON of the vector at a place.
        """
        text = bytearray()
        for index, vector in enumerate(vectors):
            text += b"," if index else b""
            text += write(index, vector)
            if index % _BREATH == _BREATH - 1:
                await self.calls.clock.sleep(0)
        return bytes(text)

    def response(
        self,
        run: _Run[_Whole],
        render: Callable[[_Whole], Awaitable[bytes]],
        read: Read[_Call],
    ) -> Response:
        """The HTTP response that runs the call, renders it, and frees all when it ends."""

        async def produce() -> bytes:
            return await render(await run.made())

        return PlainAnswer(produce, close=run.close, headers=ignored_header(read))
