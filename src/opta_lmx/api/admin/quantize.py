"""`/admin/quantize`: jobs that make smaller models of those that are stored."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from opta_lmx.api.admin import bodies, progress
from opta_lmx.api.documents import LOADING, body_docs, error_docs, text_docs
from opta_lmx.api.fields import ModelName, WireModel
from opta_lmx.core.clock import Clock
from opta_lmx.engine.quantise_jobs import Job, Wish
from opta_lmx.engine.quantising import Quantising
from opta_lmx.serving.service import Serving

_KEEPALIVE_S = 10.0
_Size = Annotated[int, Field(ge=1, le=1024)]


class QuantizeBody(WireModel):
    """A stored model, the name of the new one, and how weights are packed (4 bits by default).

    `affine` takes 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128; `mxfp4` and `mxfp8` groups
    of 32; `nvfp4` groups of 16.
    """

    model: ModelName
    name: ModelName | None = None
    bits: _Size | None = None
    group_size: _Size | None = None
    mode: Literal["affine", "mxfp4", "mxfp8", "nvfp4"] | None = None


class AdminQuantize:
    """The routes' work, each one call of the room below."""

    def __init__(self, quantising: Quantising, serving: Serving, clock: Clock) -> None:
        self._quantising = quantising
        self._serving = serving
        self._clock = clock

    def router(self) -> APIRouter:
        """All routes of this group."""
        routes = APIRouter(prefix="/admin/quantize")
        routes.add_api_route(
            "",
            self.start,
            methods=["POST"],
            response_model=None,
            status_code=202,
            responses=error_docs(*LOADING, 429),
            openapi_extra=body_docs(QuantizeBody),
        )
        routes.add_api_route("", self.list_jobs, methods=["GET"], response_model=None)
        routes.add_api_route("/{job}", self.get_job, methods=["GET"], response_model=None)
        accepted: dict[int | str, dict[str, Any]] = {
            202: {"description": "It is being cancelled; 200: it has ended."}
        }
        for path, method in (("/{job}/cancel", "POST"), ("/{job}", "DELETE")):
            routes.add_api_route(
                path, self.cancel, methods=[method], response_model=None, responses=accepted
            )
        routes.add_api_route(
            "/{job}/events",
            self.watch,
            methods=["GET"],
            response_class=StreamingResponse,
            response_model=None,
            responses=text_docs("text/event-stream", "Progress, until the job ends."),
        )
        return routes

    async def start(self, request: Request) -> Response:
        """Take a job into the line; answers at once."""
        asked = await bodies.read(request, QuantizeBody)
        self._serving.refuse_draining()
        wish = Wish(asked.model, asked.name, asked.mode, asked.bits, asked.group_size)
        return _told(await self._quantising.start(wish), 202)

    async def list_jobs(self) -> dict[str, Any]:
        """The latest jobs, newest last; those of earlier runs of the server among them."""
        return {"object": "list", "data": [job.report() for job in self._quantising.list()]}

    async def get_job(self, job: str) -> dict[str, Any]:
        """How one job stands."""
        return self._quantising.get(job).report()

    async def cancel(self, job: str) -> Response:
        """End a job; nothing of what it made is left."""
        found = await self._quantising.cancel(job)
        return _told(found, 200 if found.ended else 202)

    async def watch(self, job: str) -> Response:
        """Progress as server-sent events until the job ends."""
        found = self._quantising.get(job)

        return progress.stream(self._quantising.watch(found), self._clock)


def _told(job: Job, status: int) -> Response:
    return JSONResponse(job.report(), status_code=status)
