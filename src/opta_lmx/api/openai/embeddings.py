"""`POST /v1/embeddings`: texts or token ids in, vectors out."""

import base64
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints, WithJsonSchema
from starlette.responses import Response

from opta_lmx.api.documents import inference_docs
from opta_lmx.api.fields import MAX_INT32, BodyReader, ModelName, Positive, WireModel, validated
from opta_lmx.api.openai.generation import STAY, Stay
from opta_lmx.api.vector_calls import VectorCalls, one_place
from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.serving.embedding import EMBEDDERS, EmbeddingRequest, Vectors
from opta_lmx.serving.vectors import numbers

MAX_INPUTS = 2048
_TOKENS: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_INPUT: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_INPUTS},
        {**_TOKENS, "minItems": 1},
        {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_INPUTS},
    ]
}
_LISTED = "input.{}".format
_encode = msgspec.json.Encoder().encode


class EmbeddingsRequest(WireModel):
    """Body of `POST /v1/embeddings`."""

    model: ModelName
    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(
        description="A text, token ids of the model's own vocabulary (special ones included), "
        f"or up to {MAX_INPUTS} of either."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`base64`: little-endian 32-bit floats. `float` is the default."
    )
    dimensions: Positive | None = Field(
        None, description="The model's own width, or less where it was made to be cut."
    )
    ttl: Stay | None = Field(None, description=STAY)
    user: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="Names the client within its key, where no header does."
    )


class EmbeddingsCall(msgspec.Struct, frozen=True):
    """A parsed request."""

    request: EmbeddingRequest
    base64: bool


def parse_embeddings(fields: dict[str, Any]) -> EmbeddingsCall:
    """Check a decoded body. Raises LmxError with the dotted `param`."""
    wire = validated(EmbeddingsRequest, fields)
    inputs, place = parse_inputs(wire.input)
    request = EmbeddingRequest(
        model=wire.model, inputs=inputs, dimensions=wire.dimensions, place=place
    )
    return EmbeddingsCall(request, wire.encoding_format == "base64")


def parse_inputs(
    value: object,
) -> tuple[tuple[str | tuple[int, ...], ...], Callable[[int], str]]:
    """The inputs, and the name of each one's field.

    Raises:
        LmxError: INVALID_REQUEST naming `input` or `input.N`.
    """
    if isinstance(value, str):
        return (_text(value, "input"),), _alone
    if not isinstance(value, list) or not value:
        raise _bad("input", "it should be a text, a list of texts, or token ids")
    items = cast("list[object]", value)
    if type(items[0]) is int:
        return (_ids(items, "input"),), _alone
    if len(items) > MAX_INPUTS:
        raise _bad("input", f"it should hold at most {MAX_INPUTS} inputs")
    parse = _text if isinstance(items[0], str) else _ids
    return tuple(parse(item, f"input.{place}") for place, item in enumerate(items)), _LISTED


def _alone(_: int) -> str:
    return "input"


def _text(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise _bad(param, "all inputs should be texts, or all token ids")
    if not value:
        raise _bad(param, "it should not be empty")
    return value


def _ids(value: object, param: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _bad(param, "all inputs should be texts, or all token ids")
    ids = cast("list[object]", value)
    if not ids:
        raise _bad(param, "it should not be empty")
    checked = tuple(each for each in ids if type(each) is int and 0 <= each <= MAX_INT32)
    if len(checked) < len(ids):
        raise _bad(param, "token ids should be whole numbers of at least 0")
    return checked


def _bad(param: str, reason: str) -> LmxError:
    return invalid(f"Invalid value for '{param}': {reason}.", param=param)


class EmbeddingsRoute:
    """Parses an embeddings request, runs it, renders the vectors."""

    def __init__(self, vectors: VectorCalls) -> None:
        self._vectors = vectors
        self._read = BodyReader(parse_embeddings, lenient=vectors.calls.lenient)

    def router(self) -> APIRouter:
        """The route, with its body and answers documented."""
        router = APIRouter()
        router.add_api_route(
            "/v1/embeddings",
            self.create,
            methods=["POST"],
            response_model=None,
            **inference_docs(EmbeddingsRequest, None),
        )
        return router

    async def create(self, request: Request) -> Response:
        """Create embeddings."""
        ticket, read = await self._vectors.calls.admit(request, self._read, one_place, EMBEDDERS)
        call = read.call
        run = self._vectors.service.run(ticket, call.request)

        async def render(made: Vectors) -> bytes:
            return await self._render(made, call)

        return self._vectors.response(run, render, read)

    async def _render(self, made: Vectors, call: EmbeddingsCall) -> bytes:
        def write(index: int, vector: bytes) -> bytes:
            shown = base64.b64encode(vector).decode() if call.base64 else numbers(vector)
            return _encode({"object": "embedding", "index": index, "embedding": shown})

        data = await self._vectors.written(made.vectors, write)
        usage = {"prompt_tokens": made.total_tokens, "total_tokens": made.total_tokens}
        tail = _encode({"model": call.request.model, "usage": usage})
        return b'{"object":"list","data":[%b],%b' % (data, tail[1:])
