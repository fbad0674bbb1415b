"""`/admin/models/download*`: fetch a model, in two steps where it is large; watch, cancel."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from opta_lmx.api.admin import bodies, progress
from opta_lmx.api.audit import tell_target
from opta_lmx.api.documents import LOADING, body_docs, error_docs, text_docs
from opta_lmx.api.fields import ModelName, WireModel
from opta_lmx.core.clock import Clock
from opta_lmx.engine.downloads import Download, Downloads
from opta_lmx.engine.offers import Pending
from opta_lmx.serving.management import Management
from opta_lmx.serving.service import Serving

_KEEPALIVE_S = 10.0


class DownloadBody(WireModel):
    """Body of download: a starter's name, `org/name[@revision]` or `org/name/file.gguf`."""

    model: ModelName


class ConfirmBody(WireModel):
    """Body of confirm: the token that the download was answered with."""

    confirmation_token: ModelName


class AdminDownloads:
    """The routes' work, each one call of a room below."""

    def __init__(self, management: Management, serving: Serving, clock: Clock) -> None:
        self._management = management
        self._downloads: Downloads = management.downloads
        self._serving = serving
        self._clock = clock

    def router(self) -> APIRouter:
        """All routes of this group."""
        routes = APIRouter(prefix="/admin/models")
        for path, handler, body in (
            ("/download", self.download, DownloadBody),
            ("/download/confirm", self.confirm, ConfirmBody),
        ):
            routes.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=None,
                status_code=202,
                responses=error_docs(*LOADING, 429),
                openapi_extra=body_docs(body),
            )
        one = "/downloads/{download_id}"
        for path, watcher, method in (
            ("/downloads", self.list_downloads, "GET"),
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

    async def download(self, request: Request) -> Response:
        """Start a download, join the one under way, or say what has to be confirmed first."""
        asked = await bodies.read(request, DownloadBody)
        self._serving.refuse_draining()
        begun = await self._management.offers.request(asked.model)
        if isinstance(begun, Download):
            return JSONResponse(begun.report(), status_code=202)
        return JSONResponse(self._question(begun), status_code=202)

    async def confirm(self, request: Request) -> Response:
        """Start a download that was asked about."""
        asked = await bodies.read(request, ConfirmBody)
        self._serving.refuse_draining()
        job = await self._management.offers.confirm(asked.confirmation_token)
        tell_target(request, job.model)
        return JSONResponse(job.report(), status_code=202)

    async def list_downloads(self) -> dict[str, Any]:
        """Downloads of this run of the server, and those the last one left unfinished."""
        return {"object": "list", "data": [job.report() for job in self._downloads.list()]}

    async def get_download(self, download_id: str) -> dict[str, Any]:
        """One download's progress."""
        return self._downloads.get(download_id).report()

    async def cancel_download(self, download_id: str) -> dict[str, Any]:
        """Stop a download; what it fetched stays for a later resume."""
        job = self._downloads.cancel(download_id)
        await self._downloads.saved()
        return job.report()

    async def watch_download(self, download_id: str) -> Response:
        """Progress as server-sent events until the download ends."""
        job = self._downloads.get(download_id)

        return progress.stream(self._downloads.watch(job), self._clock)

    def _question(self, pending: Pending) -> dict[str, Any]:
        """What is to be confirmed: sizes in bytes."""
        offer = pending.offer
        room = self._management.fitting.room()
        return {
            "status": "confirmation_required",
            "model": pending.model,
            "name": offer.name,
            "confirmation_token": pending.token,
            "confirm_url": "/admin/models/download/confirm",
            "expires_in_s": self._management.offers.expires_s(pending),
            "estimated_bytes": offer.total_bytes,
            "held_bytes": offer.held_bytes,
            "estimated": _in_words(offer.total_bytes),
            "free_disk_bytes": pending.free_bytes,
            "format": offer.format,
            "licence": offer.licence,
            "fits": {
                "fits": room.fits(offer.total_bytes),
                "source": "estimated from the size of its files, without caches",
                **msgspec.to_builtins(room),
            },
        }


def _in_words(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
