"""Rerank calls: how well documents answer a query, by a model made for it or by their vectors."""

import asyncio

import msgspec

from opta_lmx.backends.frames import ModelKind
from opta_lmx.serving.embedding import EmbeddingRequest, EmbeddingRun, EmbeddingService
from opta_lmx.serving.service import Ticket
from opta_lmx.serving.vectors import cosines, numbers

RERANKERS: tuple[ModelKind, ...] = ("rerank", "embedding")
_MANY = 64
"""Documents from which on comparing vectors is worth a thread."""


class RerankRequest(msgspec.Struct, frozen=True):
    """One call. `cut_to` asks for documents to be cut at that many tokens and at the window."""

    model: str
    query: str
    documents: tuple[str, ...]
    cut_to: int | None = None


class Ranked(msgspec.Struct, frozen=True):
    """One document: its place in the request, and its score.

    A rerank model's scores are probabilities (0 to 1), an embedding model's are cosines of the
    angle between query and document (-1 to 1).
    """

    index: int
    score: float


class Ranking(msgspec.Struct, frozen=True):
    """All documents, best first (equal ones in the request's order), and all tokens read."""

    model: str
    ranked: tuple[Ranked, ...]
    tokens: int


class RerankRun:
    """One call; `made` it once, close it always."""

    def __init__(self, run: EmbeddingRun, *, pairs: bool) -> None:
        self._run = run
        self._pairs = pairs

    async def made(self) -> Ranking:
        """Score and sort. Raises what `EmbeddingRun.made` raises."""
        made = await self._run.made()
        if self._pairs:
            scores = [numbers(vector)[0] for vector in made.vectors]
        elif len(made.vectors) > _MANY:
            scores = await asyncio.to_thread(cosines, made.vectors[0], made.vectors[1:])
        else:
            scores = cosines(made.vectors[0], made.vectors[1:])
        ranked = [Ranked(index, score) for index, score in enumerate(scores)]
        ranked.sort(key=lambda one: -one.score)
        return Ranking(made.model, tuple(ranked), made.total_tokens)

    def close(self) -> None:
        """Give up what is not over. Idempotent."""
        self._run.close()


def rerank(service: EmbeddingService, ticket: Ticket, request: RerankRequest) -> RerankRun:
    """The call of an admitted request (`gate` with `RERANKERS`). Close it in any case."""
    pairs = ticket.runtime.plan.kind == "rerank"
    wanted = EmbeddingRequest(
        model=request.model,
        inputs=request.documents if pairs else (request.query, *request.documents),
        cut_to=request.cut_to,
        query=request.query if pairs else None,
        uncut=0 if pairs else 1,
        place=_place_of_pair if pairs else _place,
        whole="documents",
    )
    return RerankRun(service.run(ticket, wanted), pairs=pairs)


def _place_of_pair(index: int) -> str:
    return f"documents.{index}"


def _place(index: int) -> str:
    return f"documents.{index - 1}" if index else "query"
