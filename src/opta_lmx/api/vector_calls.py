"""From an HTTP request to an admitted embedding or rerank call, for every dialect."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from opta_lmx.api.calls import Calls, ignored_header
from opta_lmx.api.fields import BodyReader, Read
from opta_lmx.api.json_body import Head, read_head
from opta_lmx.api.streaming import PlainAnswer
from opta_lmx.backends.frames import ModelKind
from opta_lmx.serving.embedding import EMBEDDERS, EmbeddingService
from opta_lmx.serving.service import Ticket

_BREATH = 32
"""Vectors written as text before others get their turn."""
_Call = TypeVar("_Call")
_Made_co = TypeVar("_Made_co", covariant=True)
_Whole = TypeVar("_Whole")


class _Run(Protocol[_Made_co]):
    async def made(self) -> _Made_co: ...

    def close(self) -> None: ...


class VectorCalls:
    """Reads, admits and answers requests for vectors and scores.

    Args:
        calls: reads bodies within their limits.
        service: the door to the models.
    """

    def __init__(self, calls: Calls, service: EmbeddingService) -> None:
        self.calls = calls
        self.service = service

    async def admit(
        self,
        request: Request,
        reader: BodyReader[_Call],
        kinds: Collection[ModelKind] = EMBEDDERS,
        read_head: Callable[[bytes], Head] = read_head,
    ) -> tuple[Ticket, Read[_Call]]:
        """Pass the first gate, before the inputs are parsed if the model is there.

        The ticket must be run or given back. `read_head` finds the model.

        Raises:
            LmxError: the body is wrong, or the gate refuses.
        """
        body = await self.calls.body(request)
        model = (await self.calls.head(read_head, body)).model
        if not self.service.is_loaded(model):
            read = await self.calls.parse(reader, body)
            return self.service.gate(model, kinds), read
        ticket = self.service.gate(model, kinds)
        try:
            return ticket, await self.calls.parse(reader, body)
        except BaseException:  # whatever it is, the place in the line must not be lost
            ticket.give_back()
            raise

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
