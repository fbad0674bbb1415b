"""`POST /api/embed`, and the older `/api/embeddings` for one text."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from opta_lmx.api.documents import inference_docs
from opta_lmx.api.fields import MAX_INT32, BodyReader, validated
from opta_lmx.api.ollama.parse import head, model_of
from opta_lmx.api.ollama.render import nanoseconds
from opta_lmx.api.ollama.wire import EmbeddingsRequest, EmbedOptions, EmbedRequest, keep_s
from opta_lmx.api.vector_calls import VectorCalls
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import invalid
from opta_lmx.engine.memory import keep
from opta_lmx.serving.embedding import EMBEDDERS, EmbeddingRequest, Vectors
from opta_lmx.serving.vectors import numbers

MAX_INPUTS = 2048
_encode = msgspec.json.Encoder().encode


class EmbedCall(msgspec.Struct, frozen=True):
    """A parsed request; `name` is the model as the client calls it, `keep_s` its time to stay."""

    name: str
    request: EmbeddingRequest
    keep_s: float | None = None


def parse_embed(fields: dict[str, Any]) -> EmbedCall:
    """Read a decoded `/api/embed` body. Raises LmxError with the dotted `param`."""
    wanted = validated(EmbedRequest, fields)
    request = EmbeddingRequest(
        model=model_of(wanted.model),
        inputs=_inputs(wanted.input),
        cut_to=None if wanted.truncate is False else _cut(wanted.options),
        dimensions=wanted.dimensions,
    )
    return EmbedCall(wanted.model, request, keep_s(wanted.keep_alive))


def _inputs(value: object) -> tuple[str, ...]:
    given = cast("list[object]", value) if isinstance(value, list) else [value]
    texts = tuple(text for text in given if isinstance(text, str))
    if len(texts) < len(given):
        raise invalid("'input' must be a text or a list of texts.", param="input")
    if not 0 < len(texts) <= MAX_INPUTS or not all(texts):
        raise invalid(
            f"'input' must hold 1 to {MAX_INPUTS} texts, none of them empty.", param="input"
        )
    return texts


def parse_embeddings(fields: dict[str, Any]) -> EmbedCall:
    """Read a decoded `/api/embeddings` body. Raises LmxError with the dotted `param`."""
    wanted = validated(EmbeddingsRequest, fields)
    if not wanted.prompt:
        raise invalid("'prompt' must not be empty.", param="prompt")
    request = EmbeddingRequest(
        model=model_of(wanted.model),
        inputs=(wanted.prompt,),
        cut_to=_cut(wanted.options),
        place=lambda _: "prompt",
        whole="prompt",
    )
    return EmbedCall(wanted.model, request, keep_s(wanted.keep_alive))


def _cut(options: EmbedOptions | None) -> int:
    return (options and options.num_ctx) or MAX_INT32


def _write(_: int, vector: bytes) -> bytes:
    return _encode(numbers(vector))


class EmbedRoutes:
    """Parses embedding requests, runs them, renders the vectors.

    Args:
        vectors: admits and answers.
        clock: measures.
    """

    def __init__(self, vectors: VectorCalls, clock: Clock) -> None:
        self._vectors = vectors
        self._clock = clock
        lenient = vectors.calls.lenient
        self._embed = BodyReader(parse_embed, lenient=lenient)
        self._embeddings = BodyReader(parse_embeddings, lenient=lenient)

    def router(self) -> APIRouter:
        """Both routes, with their bodies and answers documented."""
        routes = APIRouter(prefix="/api")
        for path, handler, body in (
            ("/embed", self.embed, EmbedRequest),
            ("/embeddings", self.embeddings, EmbeddingsRequest),
        ):
            routes.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=None,
                **inference_docs(body, None),
            )
        return routes

    async def embed(self, request: Request) -> Response:
        """Make vectors of texts."""
        began = self._clock.monotonic()

        async def render(call: EmbedCall, made: Vectors) -> bytes:
            vectors = await self._vectors.written(made.vectors, _write)
            tail = {
                "total_duration": nanoseconds(self._clock.monotonic() - began),
                "prompt_eval_count": made.total_tokens,
            }
            name, rest = _encode(call.name), _encode(tail)[1:]
            return b'{"model":%b,"embeddings":[%b],%b' % (name, vectors, rest)

        return await self._answer(request, self._embed, render)

    async def embeddings(self, request: Request) -> Response:
        """Make a vector of one text."""

        async def render(_: EmbedCall, made: Vectors) -> bytes:
            return b'{"embedding":%b}' % _write(0, made.vectors[0])

        return await self._answer(request, self._embeddings, render)

    async def _answer(
        self,
        request: Request,
        reader: BodyReader[EmbedCall],
        render: Callable[[EmbedCall, Vectors], Awaitable[bytes]],
    ) -> Response:
        ticket, read = await self._vectors.calls.admit(request, reader, head, EMBEDDERS)
        keep(ticket.runtime, read.call.keep_s)
        run = self._vectors.service.run(ticket, read.call.request)

        async def whole(made: Vectors) -> bytes:
            return await render(read.call, made)

        return self._vectors.response(run, whole, read)
