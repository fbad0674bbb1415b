"""`/admin/benchmark/*`: how fast a loaded model is, measured now or before."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from opta_lmx.api.admin import bodies
from opta_lmx.api.callers import principal_of
from opta_lmx.api.documents import LOADING, body_docs, error_docs
from opta_lmx.api.fields import MAX_INT32, ModelName, WireModel, only
from opta_lmx.api.streaming import PlainAnswer
from opta_lmx.core.errors import UnknownFieldError
from opta_lmx.serving.benchmarking import BenchmarkPlan, Benchmarks

_QUERY = frozenset({"model", "limit"})


class BenchmarkBody(WireModel):
    """Body of a run; answers are greedy, so `temperature` can only be 0."""

    model: ModelName
    num_output_tokens: Annotated[int, Field(ge=50, le=2000)] = 200
    runs: Annotated[int, Field(ge=1, le=20)] = 5
    warmup_runs: Annotated[int, Field(ge=0, le=3)] = 1
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 1
    prompt_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] = 128
    temperature: Annotated[float | None, only(0.0)] = None

    def plan(self) -> BenchmarkPlan:
        """What the room below calls it."""
        return BenchmarkPlan(
            model=self.model,
            output_tokens=self.num_output_tokens,
            runs=self.runs,
            warmup_runs=self.warmup_runs,
            concurrency=self.concurrency,
            prompt_tokens=self.prompt_tokens,
        )


class AdminBenchmark:
    """The routes' work.

    Args:
        benchmarks: runs and keeps them.
    """

    def __init__(self, benchmarks: Benchmarks) -> None:
        self._benchmarks = benchmarks

    def router(self) -> APIRouter:
        """Both routes."""
        routes = APIRouter(prefix="/admin/benchmark")
        routes.add_api_route(
            "/run",
            self.run,
            methods=["POST"],
            response_model=None,
            responses=error_docs(*LOADING, 429),
            openapi_extra=body_docs(BenchmarkBody),
        )
        routes.add_api_route(
            "/results",
            self.results,
            methods=["GET"],
            response_model=None,
            responses=error_docs(503),
        )
        return routes

    async def run(self, request: Request) -> Response:
        """Measure a loaded model; answers when it is done, and stops when the client goes."""
        plan = (await bodies.read(request, BenchmarkBody)).plan()
        principal = principal_of(request)

        async def produce() -> bytes:
            return msgspec.json.encode(await self._benchmarks.run(plan, principal))

        return PlainAnswer(produce, close=lambda: None)

    async def results(
        self,
        request: Request,
        model: Annotated[str | None, Query(min_length=1, max_length=512)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """What was measured before, the newest first."""
        for name in request.query_params:
            if name not in _QUERY:
                raise UnknownFieldError(name[:64])
        return {"object": "list", "data": await self._benchmarks.results(model, limit)}
