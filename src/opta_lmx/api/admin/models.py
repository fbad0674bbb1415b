"""`/admin/models/*` and `/admin/status`: load, unload, download, look."""

from typing import Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from opta_lmx import __version__
from opta_lmx.api.body import read_body
from opta_lmx.api.documents import LOADING, body_docs, error_docs, text_docs
from opta_lmx.api.fields import WireModel, validated
from opta_lmx.api.json_body import decode_object
from opta_lmx.api.streaming import EventStream, StreamWriter
from opta_lmx.core.clock import Clock
from opta_lmx.engine.downloads import Downloads
from opta_lmx.engine.residency import Engine
from opta_lmx.serving.service import Serving

_BODY_LIMIT_BYTES = 64 * 1024
_BODY_TIMEOUT_S = 10.0
_KEEPALIVE_S = 10.0
_Body = TypeVar("_Body", bound=WireModel)


class LoadBody(WireModel):
    """Body of load and unload: a model, and the backend it is to run, or runs, on."""

    model: str
    backend: Literal["mlx", "gguf"] | None = None

    def ref(self) -> str:
        """The reference `NAME[:BACKEND]`."""
        if self.backend is None:
            return self.model
        return f"{self.model}:{self.backend}"


class DownloadBody(WireModel):
    """Body of download: a starter's name, `org/name[@revision]` or `org/name/file.gguf`."""

    model: str


async def _parse(request: Request, kind: type[_Body]) -> _Body:
    body = await read_body(request, limit=_BODY_LIMIT_BYTES, timeout_s=_BODY_TIMEOUT_S)
    return validated(kind, decode_object(body))


class AdminModels:
    """The routes' work, each one call of a room below."""

    def __init__(
        self, engine: Engine, downloads: Downloads, serving: Serving, clock: Clock
    ) -> None:
        self._engine = engine
        self._serving = serving
        self._downloads = downloads
        self._clock = clock
        self._started = clock.monotonic()

    def router(self) -> APIRouter:
        """All routes of this group."""
        routes = APIRouter(prefix="/admin")
        for path, handler, body, status in (
            ("/models/load", self.load, LoadBody, 200),
            ("/models/unload", self.unload, LoadBody, 200),
            ("/models/download", self.download, DownloadBody, 202),
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
        one = "/models/downloads/{download_id}"
        for path, watcher, method in (
            ("/status", self.status, "GET"),
            ("/models/downloads", self.list_downloads, "GET"),
            (one, self.get_download, "GET"),
            (one, self.cancel_download, "DELETE"),
        ):
            routes.add_api_route(path, watcher, methods=[method], response_model=None)
        routes.add_api_route(
            f"{one}/events",
            self.watch_download,
            methods=["GET"],
            response_class=StreamingResponse,
            response_model=None,
            responses=text_docs("text/event-stream", "Progress, until the download ends."),
        )
        return routes

    async def status(self) -> dict[str, Any]:
        """Every loaded model with its slots, line and worker; the memory they take."""
        return {
            "version": __version__,
            "uptime_s": self._clock.monotonic() - self._started,
            "models": [msgspec.to_builtins(status) for status in self._engine.status()],
            "memory": msgspec.to_builtins(self._engine.memory()),
        }

    async def load(self, request: Request) -> Response:
        """Load a model and wait until it serves."""
        body = await _parse(request, LoadBody)
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
        body = await _parse(request, LoadBody)
        await self._engine.unload(body.ref())
        return JSONResponse({"model": body.model, "state": "unloaded"})

    async def download(self, request: Request) -> Response:
        """Start a download, or join the one under way; answers at once."""
        body = await _parse(request, DownloadBody)
        self._serving.refuse_draining()
        return JSONResponse(self._downloads.start(body.model).report(), status_code=202)

    async def list_downloads(self) -> dict[str, Any]:
        """Downloads of this run of the server."""
        return {"object": "list", "data": [job.report() for job in self._downloads.list()]}

    async def get_download(self, download_id: str) -> dict[str, Any]:
        """One download's progress."""
        return self._downloads.get(download_id).report()

    async def cancel_download(self, download_id: str) -> dict[str, Any]:
        """Stop a download; what it fetched stays for a later resume."""
        return self._downloads.cancel(download_id).report()

    async def watch_download(self, download_id: str) -> Response:
        """Progress as server-sent events until the download ends."""
        job = self._downloads.get(download_id)

        async def produce(writer: StreamWriter) -> None:
            async for report in self._downloads.watch(job):
                await writer.write(b"data: " + msgspec.json.encode(report) + b"\n\n")

        return EventStream(
            produce,
            noop=lambda: b"data: {}\n\n",
            keepalive_s=_KEEPALIVE_S,
            clock=self._clock,
            close=lambda: None,
        )
