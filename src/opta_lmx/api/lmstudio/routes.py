"""`/api/v1/models` (list, load, unload, download) and `/api/v0/models`, as LM Studio has them."""

from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from opta_lmx.api.body import OPERATORS_BYTES, read_body
from opta_lmx.api.callers import principal_of
from opta_lmx.api.calls import Calls, ignored_header
from opta_lmx.api.documents import LOADING, body_docs, error_docs
from opta_lmx.api.fields import BodyReader, Read, validated
from opta_lmx.api.lmstudio import render
from opta_lmx.api.lmstudio.errors import ConfirmationRequiredError
from opta_lmx.api.lmstudio.wire import (
    DownloadRequest,
    InstanceConfig,
    Job,
    Loaded,
    LoadRequest,
    OldList,
    Unloaded,
    UnloadRequest,
)
from opta_lmx.core.principal import Principal
from opta_lmx.engine.downloads import Download
from opta_lmx.engine.parking import until_loaded
from opta_lmx.engine.residency import Engine
from opta_lmx.serving.catalogue import Catalogue
from opta_lmx.serving.management import Management

_LINK = "https://huggingface.co/"
_ENCODER = msgspec.json.Encoder()
_Wire = TypeVar("_Wire", bound=BaseModel)


class LmStudioRoutes:
    """Loads and lists models for clients that speak LM Studio's own interface."""

    def __init__(
        self, calls: Calls, engine: Engine, catalogue: Catalogue, management: Management
    ) -> None:
        self._calls = calls
        self._engine = engine
        self._catalogue = catalogue
        self._downloads = management.downloads
        self._offers = management.offers

    def router(self) -> APIRouter:
        """All routes of this group, with their bodies documented."""
        routes = APIRouter()
        for path, handler in (
            ("/api/v1/models", self.list_models),
            ("/api/v1/models/download/status", self.download_jobs),
            ("/api/v1/models/download/status/{job_id}", self.download_job),
            ("/api/v0/models", self.list_old),
            ("/api/v0/models/{model_id:path}", self.get_old),
        ):
            routes.add_api_route(path, handler, methods=["GET"], response_model=None)
        for path, handler, body, errors in (
            ("/api/v1/models/load", self.load, LoadRequest, LOADING),
            ("/api/v1/models/unload", self.unload, UnloadRequest, LOADING),
            ("/api/v1/models/download", self.download, DownloadRequest, (*LOADING, 429)),
        ):
            routes.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=None,
                responses=error_docs(*errors),
                openapi_extra=body_docs(body),
            )
        return routes

    async def list_models(self, request: Request) -> Response:
        """List the stored models and their loaded instances."""
        return _json(render.model_list(await self._catalogue.list(principal_of(request))))

    async def load(self, request: Request) -> Response:
        """Load a model and wait until it serves; one that is loaded and large enough stays."""
        read = await self._read(request, LoadRequest)
        body = read.call
        self._calls.serving.refuse_draining()
        runtime = await self._engine.load(body.model, body.context_length)
        ready = await until_loaded(runtime)
        loaded = Loaded(
            type="llm" if runtime.plan.kind == "chat" else "embedding",
            instance_id=runtime.plan.ref,
            load_time_seconds=round(runtime.loading.last_s, 3),
            status="loaded",
        )
        if body.echo_load_config:
            loaded.load_config = InstanceConfig(ready.context)
        return _json(loaded, read)

    async def unload(self, request: Request) -> Response:
        """Unload an instance; its memory is free when this answers."""
        read = await self._read(request, UnloadRequest)
        await self._engine.unload(read.call.instance_id)
        return _json(Unloaded(read.call.instance_id), read)

    async def download(self, request: Request) -> Response:
        """Start a download, or join the one under way; a large one has to be confirmed.

        That is told as an error, with a token: the same request with that in it begins.
        """
        read = await self._read(request, DownloadRequest)
        self._calls.serving.refuse_draining()
        ref = read.call.model.removeprefix(_LINK)
        if any(one.name == ref for one in await self._catalogue.list(Principal())):
            return _json(Job("already_downloaded"), read)
        return _json(render.job(await self._begin(ref, read.call.confirmation_token)), read)

    async def _begin(self, ref: str, token: str | None) -> Download:
        if token is not None:
            return await self._offers.confirm(token, ref)
        begun = await self._offers.request(ref)
        if isinstance(begun, Download):
            return begun
        raise ConfirmationRequiredError(begun, self._offers.expires_s(begun))

    async def download_jobs(self) -> Response:
        """The downloads of this run of the server."""
        return _json(render.jobs(self._downloads.list()))

    async def download_job(self, job_id: str) -> Response:
        """One download."""
        return _json(render.job(self._downloads.get(job_id)))

    async def list_old(self, request: Request) -> Response:
        """List the models in the words of the older interface."""
        served = await self._catalogue.list(principal_of(request))
        listed = [one for one in served if one.kind != "rerank"]
        return _json(OldList("list", [render.old_model(one) for one in listed]))

    async def get_old(self, request: Request, model_id: str) -> Response:
        """Describe one model in the words of the older interface."""
        served = await self._catalogue.get(principal_of(request), model_id)
        return _json(render.old_model(served))

    async def _read(self, request: Request, kind: type[_Wire]) -> Read[_Wire]:
        def parse(fields: dict[str, Any]) -> _Wire:
            return validated(kind, fields)

        reader = BodyReader(parse, lenient=self._calls.lenient)
        limits = self._calls.limits
        body = await read_body(
            request,
            limit=min(OPERATORS_BYTES, limits.body_limit_bytes),
            timeout_s=limits.body_timeout_s,
        )
        return await self._calls.parse(reader, body)


def _json(answer: msgspec.Struct, read: Read[Any] | None = None) -> Response:
    headers = {} if read is None else ignored_header(read)
    return Response(_ENCODER.encode(answer), headers=headers, media_type="application/json")
