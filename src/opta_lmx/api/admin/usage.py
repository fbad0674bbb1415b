"""`GET /admin/usage`: who used how much; `GET /v1/usage`: the same, of the key that asks."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from opta_lmx.api.callers import principal_of
from opta_lmx.api.documents import error_docs
from opta_lmx.core.errors import invalid, unsupported
from opta_lmx.tenancy.usage import Ledger, query_of
from opta_lmx.tenancy.usage_csv import written
from opta_lmx.tenancy.usage_rows import COUNTS

_OWN = ("from", "to", "model", "group_by", "format")
_ALL = (*_OWN, "tenant", "key")
_FORMATS = ("json", "csv")
# Who used what is of no concern to a cache on the way.
_UNCACHED = {"Cache-Control": "no-store"}


class UsageRoutes:
    """The routes' work.

    Args:
        ledger: knows what was used.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def router(self) -> APIRouter:
        """The routes."""
        routes = APIRouter()
        for path, handler in (("/admin/usage", self.everybody), ("/v1/usage", self.own)):
            routes.add_api_route(
                path,
                handler,
                methods=["GET"],
                response_model=None,
                responses=error_docs(400, 401, 403, 503),
                openapi_extra={"parameters": _parameters(path)},
            )
        return routes

    async def everybody(self, request: Request) -> Response:
        """Use of all keys, by day (UTC), tenant, key and model."""
        return await self._told(_words(request, _ALL))

    async def own(self, request: Request) -> Response:
        """Use of the key that asks, by day (UTC) and model."""
        owner = principal_of(request)
        words = _words(request, _OWN)
        return await self._told({**words, "tenant": owner.tenant, "key": owner.key})

    async def _told(self, words: dict[str, str]) -> Response:
        form = words.pop("format", "json")
        if form not in _FORMATS:
            raise invalid("'format' must be json or csv.", param="format")
        query = query_of(words)
        rows = await self._ledger.report(query)
        if form == "csv":
            text = written([*query.group_by, *COUNTS], rows)
            return Response(text, headers=_UNCACHED, media_type="text/csv")
        return JSONResponse({"object": "list", "data": rows}, headers=_UNCACHED)


def _words(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """The query's words. Raises UNSUPPORTED_PARAMETER, INVALID_REQUEST for one said twice."""
    words: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise unsupported(f"The parameter '{name[:64]}' is unknown.", name[:64])
        if name in words:
            raise invalid(f"The parameter '{name}' is given twice.", param=name)
        words[name] = value
    return words


def _parameters(path: str) -> list[dict[str, Any]]:
    """What a query may say, for the OpenAPI document."""
    told = {
        "from": "First day, like 2031-05-31 (UTC).",
        "to": "Last day.",
        "tenant": "One tenant alone.",
        "key": "One key alone, by its name.",
        "model": "One model alone.",
        "group_by": "Some of day, tenant, key and model, with commas between.",
        "format": "json or csv.",
    }
    known = _ALL if path.startswith("/admin") else _OWN
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in told.items()
        if name in known
    ]
