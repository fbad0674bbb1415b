"""`POST /v1/rerank` and `/v2/rerank`: documents sorted by how well they answer a query."""

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from opta_lmx.api.cohere.wire import (
    RerankCall,
    RerankRequestBody,
    RerankV2Request,
    parse_v1,
    parse_v2,
)
from opta_lmx.api.documents import inference_docs
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.vector_calls import VectorCalls, one_place
from opta_lmx.core.ids import random_id
from opta_lmx.serving.reranking import RERANKERS, Ranked, Ranking, rerank

_encode = msgspec.json.Encoder().encode


class RerankRoutes:
    """Parses rerank requests, runs them, renders the ranking."""

    def __init__(self, vectors: VectorCalls) -> None:
        self._vectors = vectors
        lenient = vectors.calls.lenient
        self._read_v1 = BodyReader(parse_v1, lenient=lenient)
        self._read_v2 = BodyReader(parse_v2, lenient=lenient)

    def router(self) -> APIRouter:
        """Both routes, with their bodies and answers documented."""
        router = APIRouter()
        router.add_api_route(
            "/v1/rerank",
            self.create_v1,
            methods=["POST"],
            response_model=None,
            **inference_docs(RerankRequestBody, None),
        )
        router.add_api_route(
            "/v2/rerank",
            self.create_v2,
            methods=["POST"],
            response_model=None,
            **inference_docs(RerankV2Request, None),
        )
        return router

    async def create_v1(self, request: Request) -> Response:
        """Rank documents."""
        return await self._create(request, self._read_v1, render_v1)

    async def create_v2(self, request: Request) -> Response:
        """Rank documents, in the newer form."""
        return await self._create(request, self._read_v2, render_v2)

    async def _create(
        self,
        request: Request,
        reader: BodyReader[RerankCall],
        render: Callable[[Ranking, RerankCall], bytes],
    ) -> Response:
        ticket, read = await self._vectors.calls.admit(request, reader, one_place, RERANKERS)
        run = rerank(self._vectors.service, ticket, read.call.request)

        async def whole(made: Ranking) -> bytes:
            return render(made, read.call)

        return self._vectors.response(run, whole, read)


def render_v1(made: Ranking, call: RerankCall) -> bytes:
    """Cohere's first form; `model` and `usage` are there for clients of Jina's."""
    return _encode(
        {
            "id": random_id("rerank-"),
            "model": call.request.model,
            "results": [_result(one, call) for one in made.ranked[: call.top_n]],
            "meta": _meta("1", made.tokens),
            "usage": {"prompt_tokens": made.tokens, "total_tokens": made.tokens},
        }
    )


def render_v2(made: Ranking, call: RerankCall) -> bytes:
    """Cohere's second form."""
    return _encode(
        {
            "id": random_id("rerank-"),
            "results": [_result(one, call) for one in made.ranked[: call.top_n]],
            "meta": _meta("2", made.tokens),
        }
    )


def _result(one: Ranked, call: RerankCall) -> dict[str, Any]:
    result: dict[str, Any] = {"index": one.index, "relevance_score": one.score}
    if call.return_documents:
        result["document"] = {"text": call.request.documents[one.index]}
    return result


def _meta(version: str, tokens: int) -> dict[str, Any]:
    return {"api_version": {"version": version}, "tokens": {"input_tokens": tokens}}
