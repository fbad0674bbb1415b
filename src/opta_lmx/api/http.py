"""The HTTP application: routers in, every failure out in one envelope."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from opta_lmx import __version__
from opta_lmx.api.audit import ERROR_CODE
from opta_lmx.api.documents import completed
from opta_lmx.api.errors import Envelopes, unforeseen
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry


def create_http(
    routers: Sequence[APIRouter], envelopes: Envelopes, telemetry: Telemetry
) -> FastAPI:
    """Join the routers; documentation pages are off, the OpenAPI file is on."""
    errors = _Errors(envelopes)
    app = _Documented(
        title="Opta LMX",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(LmxError, errors.typed)
    app.add_exception_handler(HTTPException, errors.routing)
    app.add_exception_handler(RequestValidationError, errors.validation)
    app.add_exception_handler(ClientDisconnect, _gone)

    async def failed(request: Request, error: Exception) -> Response:
        return errors.response(request, unforeseen(error, telemetry))

    app.add_exception_handler(Exception, failed)
    return app


class _Documented(FastAPI):
    """An application whose OpenAPI document tells all that its routes may answer."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi())
        return self.openapi_schema


class _Errors:
    """Renders every failure in the dialect of the path it happened on."""

    def __init__(self, envelopes: Envelopes) -> None:
        self._envelopes = envelopes

    def response(self, request: Request, error: LmxError, status: int | None = None) -> Response:
        request.scope[ERROR_CODE] = error.code
        default_status, headers, body = self._envelopes.render(request.url.path, error)
        return Response(body, status or default_status, headers, media_type="application/json")

    async def typed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, LmxError)
        return self.response(request, error)

    async def routing(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if error.status_code == 405:
            message = f"{request.method} is not allowed on {path}."
            wrong = LmxError(ErrorKind.NOT_FOUND, message, code="method_not_allowed")
            response = self.response(request, wrong, 405)
            response.headers.update(error.headers or {})
            return response
        unknown = LmxError(ErrorKind.NOT_FOUND, f"Unknown path {path}.", code="unknown_path")
        return self.response(request, unknown, error.status_code)

    async def validation(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        wrong = LmxError(ErrorKind.INVALID_REQUEST, first["msg"], param=param or None)
        return self.response(request, wrong)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)
