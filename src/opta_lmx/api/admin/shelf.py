"""`/admin/models`: what is loaded and on disk, what fits, what is worth having; probe, delete."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from opta_lmx.api.admin import bodies
from opta_lmx.api.documents import LOADING, body_docs, error_docs
from opta_lmx.api.fields import MAX_INT32, ModelName, WireModel
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.residency import Engine
from opta_lmx.models.recommended import recommended
from opta_lmx.serving.fitting import Wanted
from opta_lmx.serving.management import Management
from opta_lmx.serving.service import Serving

_Backend = Literal["mlx", "gguf"]


class FitBody(WireModel):
    """A stored model, a starter or a hub model; a window and slots other than as configured."""

    model: ModelName
    backend: _Backend | None = None
    context: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    slots: Annotated[int, Field(ge=1, le=1024)] | None = None


class ProbeBody(WireModel):
    """A stored model, the only backend to try, and how long each may take (s)."""

    model: ModelName
    backend: _Backend | None = None
    timeout_s: Annotated[float, Field(ge=1, le=900)] = 90.0


class AdminShelf:
    """The routes' work, each one call of a room below."""

    def __init__(self, management: Management, engine: Engine, serving: Serving) -> None:
        self._management = management
        self._engine = engine
        self._serving = serving

    def router(self) -> APIRouter:
        """All routes of this group; the one that takes any path is the last."""
        routes = APIRouter(prefix="/admin/models")
        for path, looker in (
            ("", self.loaded),
            ("/available", self.available),
            ("/recommended", self.recommended),
        ):
            routes.add_api_route(path, looker, methods=["GET"], response_model=None)
        for path, handler, body in (
            ("/fit", self.fit, FitBody),
            ("/probe", self.probe, ProbeBody),
        ):
            routes.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=None,
                responses=error_docs(*LOADING),
                openapi_extra=body_docs(body),
            )
        routes.add_api_route(
            "/{model:path}",
            self.delete,
            methods=["DELETE"],
            response_model=None,
            responses=error_docs(400, 401, 403, 404, 409, 500, 503),
        )
        return routes

    async def loaded(self) -> dict[str, Any]:
        """Every loaded model, with the memory it holds."""
        lines = {line.model: line for line in self._engine.memory().models}
        data: list[dict[str, Any]] = []
        for status in self._engine.status():
            if self._engine.find(status.id) is None:
                continue  # in quarantine: `/admin/status` tells of it
            line = lines.get(status.id)
            data.append(
                {
                    "id": status.id,
                    "object": "model",
                    "backend": status.backend,
                    "state": status.state,
                    "context_length": status.context_length,
                    "slots": status.slots,
                    "running": status.running,
                    "waiting": status.waiting,
                    "memory_bytes": 0 if line is None else line.bytes,
                    "memory_measured": line is not None and line.measured,
                    "load_s": status.load_s,
                    "idle_s": None if line is None else line.idle_s,
                    "expires_s": status.expires_s,
                    "error": status.error,
                }
            )
        return {"object": "list", "data": data}

    async def available(self) -> dict[str, Any]:
        """Every model on disk, those that cannot be used among them."""
        stored = await self._management.shelf.stored()
        return {"object": "list", "data": [msgspec.to_builtins(model) for model in stored]}

    async def recommended(self) -> dict[str, Any]:
        """Models worth having, with what each needs and whether it fits this machine's memory."""
        room = self._management.fitting.room()
        data = [
            {
                **msgspec.to_builtins(one),
                "memory_bytes": one.memory_bytes,
                "fits": room.fits(one.memory_bytes),
            }
            for one in recommended()
        ]
        return {"object": "list", "data": data, "memory": msgspec.to_builtins(room)}

    async def fit(self, request: Request) -> Response:
        """Whether a model fits, with what window, and how fast it will be."""
        body = await bodies.read(request, FitBody)
        wanted = Wanted(body.model, body.backend, body.context, body.slots)
        return JSONResponse(await self._management.fitting.fit(wanted))

    async def probe(self, request: Request) -> Response:
        """Try a model out in a worker of its own; answers when that has ended."""
        body = await bodies.read(request, ProbeBody)
        self._serving.refuse_draining()
        probe = await self._management.prober.probe(body.model, body.backend, body.timeout_s)
        return JSONResponse(msgspec.to_builtins(probe))

    async def delete(self, request: Request, model: str) -> dict[str, Any]:
        """Delete a model from disk, or what an unfinished download of it has left."""
        try:
            freed = await self._management.shelf.delete(model)
        except LmxError as error:
            allowed = sorted(set(_other_methods(request.app.routes, request.scope)))
            if allowed and error.kind in _NO_MODEL:
                # It is no model's name but another route's, to which nothing can be deleted.
                raise HTTPException(405, headers={"Allow": ", ".join(allowed)}) from None
            raise
        return {"model": model, "freed_bytes": freed}


_NO_MODEL = (ErrorKind.MODEL_NOT_FOUND, ErrorKind.INVALID_REQUEST)
"""What is said of a path that names no model: there is none, or no model could be called that."""


def _other_methods(routes: Iterable[Any], scope: Scope) -> Iterator[str]:
    """Methods that other routes of the same path take, through the routers that hold them."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from _other_methods(inner.routes, scope)
        elif isinstance(route, Route) and route.matches(scope)[0] is Match.PARTIAL:
            yield from route.methods or ()
