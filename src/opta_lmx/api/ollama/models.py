"""What models there are, in Ollama's words: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`."""

import asyncio
import hashlib
import json
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from opta_lmx import __version__
from opta_lmx.api.callers import principal_of
from opta_lmx.api.calls import Calls, ignored_header
from opta_lmx.api.documents import body_docs, error_docs, text_docs
from opta_lmx.api.fields import BodyReader, validated
from opta_lmx.api.ollama.parse import model_of
from opta_lmx.api.ollama.render import Json
from opta_lmx.api.ollama.wire import ShowRequest
from opta_lmx.api.values import timestamp
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.types import SamplingParams
from opta_lmx.models.presets import Preset
from opta_lmx.models.store import ModelEntry, ModelStore
from opta_lmx.serving.catalogue import Catalogue, ServedModel

OLLAMA_LEVEL = "0.13.0"
"""The version of Ollama's interface that is followed here: clients ask for a least one."""

_NEVER = "9999-12-31T23:59:59Z"
_UNITS = ((1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K"))
_NOT_OFFERED = {
    "pull": "opta-lmx pull NAME",
    "delete": "opta-lmx rm NAME",
    "create": "opta-lmx add PATH",
    "copy": "an alias in the configuration",
    "push": "",
}


class ModelRoutes:
    """Lists and describes models.

    Args:
        calls: reads bodies within their limits.
        catalogue: what can be asked for.
        store: models on disk.
    """

    def __init__(self, calls: Calls, catalogue: Catalogue, store: ModelStore) -> None:
        self._calls = calls
        self._catalogue = catalogue
        self._store = store
        self._show = BodyReader(_parse_show, lenient=calls.lenient)

    def router(self) -> APIRouter:
        """All routes of this group."""
        routes = APIRouter()
        for path, handler in (
            ("/api/tags", self.tags),
            ("/api/ps", self.ps),
            ("/api/version", self.version),
        ):
            routes.add_api_route(
                path, handler, methods=["GET"], response_model=None, responses=error_docs(503)
            )
        routes.add_api_route(
            "/api/show",
            self.show,
            methods=["POST"],
            response_model=None,
            responses=error_docs(400, 401, 403, 404, 408, 409, 413, 503),
            openapi_extra=body_docs(ShowRequest),
        )
        for name in _NOT_OFFERED:
            method = "DELETE" if name == "delete" else "POST"
            routes.add_api_route(
                f"/api/{name}",
                self.not_offered,
                methods=[method],
                response_model=None,
                status_code=404,
                name=name,
                responses=error_docs(401, 403, 404),
            )
        for method in ("GET", "HEAD"):
            routes.add_api_route(
                "/",
                self.running,
                methods=[method],
                response_class=PlainTextResponse,
                response_model=None,
                responses=text_docs("text/plain"),
                include_in_schema=method == "GET",
            )
        return routes

    async def running(self) -> Response:
        """Say that somebody is here."""
        return PlainTextResponse("Opta LMX is running")

    async def version(self) -> Json:
        """The interface that is followed, and whose server it is."""
        return {"version": f"{OLLAMA_LEVEL}+opta-lmx.{__version__}"}

    async def tags(self, request: Request) -> Json:
        """List the models that can be asked for, then their adapters, then the presets."""
        owner, listed = principal_of(request), self._catalogue
        models, adapters = await listed.list(owner), await listed.adapters(owner)
        served = [*models, *adapters, *await listed.presets(owner)]
        return {"models": [_listed(model) for model in served]}

    async def ps(self, request: Request) -> Json:
        """List the models that are loaded."""
        served = await self._catalogue.list(principal_of(request))
        now = self._calls.clock.now_ms()
        return {"models": [_loaded(model, now) for model in served if model.state == "ready"]}

    async def show(self, request: Request) -> Response:
        """Describe one model."""
        read = await self._calls.parse(self._show, await self._calls.body(request))
        served = await self._catalogue.get(principal_of(request), model_of(read.call))
        entry = await asyncio.to_thread(self._store.get, served.name)
        return JSONResponse(_described(served, entry), headers=ignored_header(read))

    async def not_offered(self, request: Request) -> Response:
        """Refuse: models come and go by the command line."""
        name = request.url.path.rpartition("/")[2]
        hint = _NOT_OFFERED.get(name)
        instead = f" Use: {hint}." if hint else ""
        raise LmxError(
            ErrorKind.NOT_FOUND,
            f"'/api/{name}' is not offered by this server.{instead}",
            code="not_offered",
        )


def _parse_show(fields: dict[str, Any]) -> str:
    wanted = validated(ShowRequest, fields)
    model = wanted.model or wanted.name
    if model is None:
        raise invalid("The parameter 'model' is missing.", param="model")
    return model


def _listed(model: ServedModel) -> Json:
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": timestamp(model.created_s * 1000),
        "size": model.size_bytes,
        "digest": _digest(model),
        "details": _details(model),
    }


def _loaded(model: ServedModel, now_ms: int) -> Json:
    """How much of it a graphics card holds is not measured: 0."""
    left_s = model.expires_s
    return {
        "name": model.id,
        "model": model.id,
        "size": model.size_bytes,
        "digest": _digest(model),
        "details": _details(model),
        "expires_at": _NEVER if left_s is None else timestamp(now_ms + int(left_s * 1000)),
        "size_vram": 0,
        "context_length": model.context_length,
    }


def _details(model: ServedModel) -> Json:
    family = model.architecture
    return {
        "parent_model": model.parent or "",
        "format": model.format,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": parameter_size(model.parameters),
        "quantization_level": model.quantisation,
    }


def _digest(model: ServedModel) -> str:
    """Changes whenever the model does: clients keep what they learnt of it under this."""
    said = (model.name, model.backend, model.created_s, model.size_bytes, model.quantisation)
    if model.preset is not None:
        said = (*said, model.preset.digest)
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def _described(model: ServedModel, entry: ModelEntry) -> Json:
    info, family, preset = entry.info, model.architecture, model.preset
    return {
        "license": "\n".join(part for part in (entry.licence, entry.notice) if part),
        "modelfile": f"FROM {model.id}\n",
        "parameters": "\n".join(_settings(info.sampling, preset)),
        "template": info.chat_template or "",
        **({"system": preset.system_prompt} if preset and preset.system_prompt else {}),
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.parameters,
            f"{family}.context_length": model.context_length,
            f"{family}.block_count": info.layers,
            f"{family}.vocab_size": info.vocabulary,
        },
        "capabilities": _capabilities(model),
        "modified_at": timestamp(model.created_s * 1000),
    }


def _settings(own: SamplingParams, preset: Preset | None) -> list[str]:
    """The preset's, then the model's own."""
    used = own if preset is None else preset.sampling.resolve(own)
    said = msgspec.structs.asdict(used).items()
    settings = [
        f"{name} {value if isinstance(value, int) else f'{value:g}'}"
        for name, value in said
        if value is not None
    ]
    if preset is not None and preset.max_tokens is not None:
        settings.append(f"num_predict {preset.max_tokens}")
    stops = preset.stop if preset is not None and preset.stop else ()
    return settings + [f"stop {json.dumps(text)}" for text in stops]


def _capabilities(model: ServedModel) -> list[str]:
    """Without tools of its own a template is taught them, so every chat model takes them."""
    if model.kind == "embedding":
        return ["embedding"]
    if model.kind == "rerank":
        return []
    return ["completion", "tools", *(["thinking"] if model.reasoning else [])]


def parameter_size(count: int) -> str:
    """A number of weights as people say it: `134.5M`, `7.6B`."""
    for size, letter in _UNITS:
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)
