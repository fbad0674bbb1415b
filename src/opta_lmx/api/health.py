"""Liveness, readiness and metrics."""

import contextlib
from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from opta_lmx import __version__
from opta_lmx.api.documents import error_docs, text_docs
from opta_lmx.core.errors import LmxError
from opta_lmx.engine.residency import Engine
from opta_lmx.serving.service import Serving

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def readiness(serving: Serving, engine: Engine, required: list[str]) -> list[str]:
    """Why the server is not ready; empty when it is."""
    reasons = ["draining"] if serving.draining else []
    for name in required:
        state = _state(engine, name)
        if state != "ready":
            reasons.append(f"model {name} is {state}")
    return reasons


def _state(engine: Engine, name: str) -> str:
    runtime = engine.find(name)
    if runtime is not None:
        return runtime.state.value
    with contextlib.suppress(LmxError):
        if engine.recovery.health.holds(engine.resolver.canonical(name)):
            return "quarantined"
    return "not loaded"


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
            "models_quarantined": len(engine.recovery.health.quarantined()),
            "safe_mode": engine.recovery.safe,
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
