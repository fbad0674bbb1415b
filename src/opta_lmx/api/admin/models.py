"""`/admin/models/load`, `unload` and `/admin/status`."""

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from opta_lmx import __version__
from opta_lmx.api.admin import bodies
from opta_lmx.api.documents import LOADING, body_docs, error_docs
from opta_lmx.api.fields import ModelName, WireModel
from opta_lmx.core.clock import Clock
from opta_lmx.engine.residency import Engine
from opta_lmx.serving.service import Serving


class LoadBody(WireModel):
    """Body of load and unload: a model, and the backend it is to run, or runs, on."""

    model: ModelName
    backend: Literal["mlx", "gguf"] | None = None

    def ref(self) -> str:
        """The reference `NAME[:BACKEND]`."""
        if self.backend is None:
            return self.model
        return f"{self.model}:{self.backend}"


class AdminModels:
    """The routes' work, each one call of a room below."""

    def __init__(self, engine: Engine, serving: Serving, clock: Clock) -> None:
        self._engine = engine
        self._serving = serving
        self._clock = clock
        self._started = clock.monotonic()

    def router(self) -> APIRouter:
        """All routes of this group."""
        routes = APIRouter(prefix="/admin")
        for path, handler, body, status in (
            ("/models/load", self.load, LoadBody, 200),
            ("/models/unload", self.unload, LoadBody, 200),
        ):
            routes.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=None,
                status_code=status,
                responses=error_docs(*LOADING),
                openapi_extra=body_docs(body),
            )
        routes.add_api_route("/status", self.status, methods=["GET"], response_model=None)
        return routes

    async def status(self) -> dict[str, Any]:
        """Every loaded model with its slots, line and worker; memory; who is in quarantine."""
        recovery = self._engine.recovery
        return {
            "version": __version__,
            "uptime_s": self._clock.monotonic() - self._started,
            "models": [msgspec.to_builtins(status) for status in self._engine.status()],
            "memory": msgspec.to_builtins(self._engine.memory()),
            "safe_mode": recovery.safe,
            "quarantine": [msgspec.to_builtins(one) for one in recovery.health.quarantined()],
        }

    async def load(self, request: Request) -> Response:
        """Load a model and wait until it serves."""
        body = await bodies.read(request, LoadBody)
        self._serving.refuse_draining()
        runtime = await self._engine.load(body.ref())
        ready = runtime.ready
        return JSONResponse(
            {
                "model": runtime.plan.ref,
                "backend": runtime.plan.backend,
                "state": runtime.state.value,
                "context_length": 0 if ready is None else ready.context,
                "slots": runtime.line.slots,
                "engine": "" if ready is None else ready.engine,
            }
        )

    async def unload(self, request: Request) -> Response:
        """Unload a model; its memory is free when this answers."""
        body = await bodies.read(request, LoadBody)
        await self._engine.unload(body.ref())
        return JSONResponse({"model": body.model, "state": "unloaded"})
