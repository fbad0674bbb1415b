"""`GET /v1/models` and `/v1/models/{id}`: what can be asked for, with its true window."""

from typing import Any

from fastapi import APIRouter, Request

from opta_lmx.api.callers import principal_of
from opta_lmx.api.documents import error_docs
from opta_lmx.serving.catalogue import Catalogue, ServedModel


def router(catalogue: Catalogue) -> APIRouter:
    """The two routes; an id may contain slashes, raw or encoded."""
    routes = APIRouter()

    @routes.get("/v1/models", responses=error_docs(503))
    async def list_models(request: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """List the models that can be asked for, then their adapters, then the presets."""
        owner = principal_of(request)
        models, adapters = await catalogue.list(owner), await catalogue.adapters(owner)
        served = [*models, *adapters, *await catalogue.presets(owner)]
        return {"object": "list", "data": [_render(model) for model in served]}

    @routes.get("/v1/models/{model_id:path}", responses=error_docs(400, 404, 409, 503))
    async def get_model(  # pyright: ignore[reportUnusedFunction]
        request: Request, model_id: str
    ) -> dict[str, Any]:
        """Describe one model."""
        return _render(await catalogue.get(principal_of(request), model_id))

    return routes


def _render(model: ServedModel) -> dict[str, Any]:
    """OpenAI's four fields, an adapter's `parent` as vLLM has it; all else is under `x_opta`."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_s,
        "owned_by": "opta-lmx",
        **({} if model.parent is None else {"parent": model.parent}),
        "x_opta": {
            "aliases": model.aliases,
            "kind": model.kind,
            "state": model.state,
            "context_length": model.context_length,
            "max_context_length": model.max_context_length,
            "backend": model.backend,
            "format": model.format,
            "quantization": model.quantisation,
            "architecture": model.architecture,
            "capabilities": _capabilities(model),
            "adapters": model.adapters,
            **_preset(model),
        },
    }


def _preset(model: ServedModel) -> dict[str, Any]:
    preset = model.preset
    if preset is None:
        return {}
    return {"preset": {"model": model.name, "description": preset.description}}


def _capabilities(model: ServedModel) -> dict[str, bool]:
    """What a request to this model may ask for; every chat model can be given tools."""
    chat = model.kind == "chat"
    return {
        "chat": chat,
        "completions": chat,
        "streaming": chat,
        "tools": chat,
        "trained_for_tool_use": model.tools,
        "reasoning": bool(model.reasoning),
        "embeddings": model.kind == "embedding",
        "rerank": model.kind == "rerank",
        "vision": False,
    }
