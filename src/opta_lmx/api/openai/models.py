"""`GET /v1/models` and `/v1/models/{id}`: what can be asked for, with its true window."""

from typing import Any

from fastapi import APIRouter

from opta_lmx.serving.catalogue import Catalogue, ServedModel


def router(catalogue: Catalogue) -> APIRouter:
    """The two routes; an id may contain slashes, raw or encoded."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """List the models that can be asked for."""
        return {"object": "list", "data": [_render(model) for model in await catalogue.list()]}

    @routes.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Describe one model."""
        return _render(await catalogue.get(model_id))

    return routes


def _render(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_s,
        "owned_by": "opta-lmx",
        "context_length": model.context_length,
        "max_model_len": model.context_length,
        "state": model.state,
        "backend": model.backend,
        "format": model.format,
        "quantization": model.quantisation,
        "architecture": model.architecture,
        "capabilities": {
            "chat": True,
            "streaming": True,
            "tools": True,
            "vision": False,
            "embeddings": False,
        },
    }
