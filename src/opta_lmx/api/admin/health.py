"""`POST /admin/models/{model}/reset`: the way out of quarantine."""

from typing import Any

from fastapi import APIRouter, Request

from opta_lmx.api.admin import bodies
from opta_lmx.api.documents import body_docs, error_docs
from opta_lmx.api.fields import WireModel
from opta_lmx.engine.residency import Engine


class ResetBody(WireModel):
    """Nothing needs to be said; an empty body does too."""


class AdminHealth:
    """The route's work.

    Args:
        engine: knows who is in quarantine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def router(self) -> APIRouter:
        """The route; an id may contain slashes, raw or encoded."""
        routes, body = APIRouter(prefix="/admin"), body_docs(ResetBody)
        routes.add_api_route(
            "/models/{model_id:path}/reset",
            self.reset,
            methods=["POST"],
            response_model=None,
            responses=error_docs(400, 401, 403, 404, 408, 413, 500, 503),
            openapi_extra={"requestBody": {**body["requestBody"], "required": False}},
        )
        return routes

    async def reset(self, model_id: str, request: Request) -> dict[str, Any]:
        """Forget a model's crashes; one that is quarantined may be loaded again."""
        await bodies.read(request, ResetBody, may_be_empty=True)
        model, was = await self._engine.reset(model_id)
        runtime = self._engine.find(model)
        state = "available" if runtime is None else runtime.state.value
        return {"model": model, "state": state, "was_quarantined": was}
