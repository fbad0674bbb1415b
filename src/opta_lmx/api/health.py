"""Liveness, readiness and metrics."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from opta_lmx import __version__
from opta_lmx.api.documents import error_docs, text_docs
from opta_lmx.engine.residency import Engine
from opta_lmx.serving.service import Serving

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def readiness(serving: Serving, engine: Engine, required: list[str]) -> list[str]:
    """Why the server is not ready; empty when it is."""
    reasons = ["draining"] if serving.draining else []
    for name in required:
        runtime = engine.find(name)
        state = "not loaded" if runtime is None else runtime.state.value
        if state != "ready":
            reasons.append(f"model {name} is {state}")
    return reasons


def router(
    serving: Serving, engine: Engine, required: list[str], render_metrics: Callable[[], bytes]
) -> APIRouter:
    """`/healthz` (the front answers), `/readyz` (named models serve), `/metrics`."""
    routes = APIRouter()

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """The front is alive."""
        return {"status": "ok", "version": __version__}

    @routes.head("/readyz", response_model=None, include_in_schema=False)
    @routes.get("/readyz", response_model=None, responses=error_docs(503))
    async def readyz() -> Response:  # pyright: ignore[reportUnusedFunction]
        """200 once every model named at start serves, 503 with reasons before and after."""
        reasons = readiness(serving, engine, required)
        loaded = sum(status.state == "ready" for status in engine.status())
        body = {
            "status": "unavailable" if reasons else "ready",
            "version": __version__,
            "models_loaded": loaded,
            "reasons": reasons,
        }
        return JSONResponse(body, status_code=503 if reasons else 200)

    @routes.get(
        "/metrics",
        response_class=PlainTextResponse,
        response_model=None,
        responses=text_docs("text/plain"),
    )
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Prometheus text."""
        return Response(render_metrics(), media_type=METRICS_TYPE)

    return routes
