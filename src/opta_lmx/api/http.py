"""The HTTP application: routers in, every failure out in one envelope."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from opta_lmx import __version__
from opta_lmx.api.openai import errors
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry


def create_http(routers: Sequence[APIRouter], telemetry: Telemetry) -> FastAPI:
    """Join the routers; documentation pages are off, the OpenAPI file is on."""
    app = FastAPI(
        title="Opta LMX",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(LmxError, _typed)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _gone)

    async def unforeseen(_: Request, error: Exception) -> Response:
        telemetry.log("error", "unforeseen error", kind=type(error).__name__, exc_info=error)
        return _response(LmxError(ErrorKind.INTERNAL, "An internal error occurred."))

    app.add_exception_handler(Exception, unforeseen)
    return app


def _response(error: LmxError, status: int | None = None) -> Response:
    default_status, headers, body = errors.render(error)
    return Response(body, status or default_status, headers, media_type="application/json")


async def _typed(_: Request, error: Exception) -> Response:
    assert isinstance(error, LmxError)
    return _response(error)


async def _routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        wrong = LmxError(
            ErrorKind.NOT_FOUND,
            f"{request.method} is not allowed on {request.url.path}.",
            code="method_not_allowed",
        )
        response = _response(wrong, 405)
        response.headers.update(error.headers or {})
        return response
    return _response(
        LmxError(ErrorKind.NOT_FOUND, f"Unknown path {request.url.path}.", code="unknown_path"),
        error.status_code,
    )


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    return _response(LmxError(ErrorKind.INVALID_REQUEST, first["msg"], param=param or None))


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)
