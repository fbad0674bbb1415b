"""`GET /admin/audit`: who did what, and what came of it."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request

from opta_lmx.api.documents import error_docs
from opta_lmx.api.fields import MAX_INT64
from opta_lmx.core.errors import UnknownFieldError
from opta_lmx.tenancy.audit import AuditLog
from opta_lmx.tenancy.audit_rows import Outcome, Wanted

_QUERY = frozenset({"after", "before", "limit", "who", "action", "outcome"})
_Place = Annotated[int | None, Query(ge=0, le=MAX_INT64)]
_Word = Annotated[str | None, Query(min_length=1, max_length=64)]


class AdminAudit:
    """The route's work.

    Args:
        log: holds the rows.
    """

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def router(self) -> APIRouter:
        """The route."""
        routes = APIRouter(prefix="/admin")
        routes.add_api_route(
            "/audit",
            self.rows,
            methods=["GET"],
            response_model=None,
            responses=error_docs(400, 503),
        )
        return routes

    async def rows(
        self,
        request: Request,
        *,
        after: _Place = None,
        before: _Place = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        who: _Word = None,
        action: _Word = None,
        outcome: Outcome | None = None,
    ) -> dict[str, Any]:
        """Rows in their order: the first ones behind `after`, or without it the latest.

        To read on, give `last` as `after`; to read back, `first` as `before`.
        """
        for name in request.query_params:
            if name not in _QUERY:
                raise UnknownFieldError(name[:64])
        wanted = Wanted(
            after=after,
            before=before,
            limit=limit + 1,
            who=who,
            action=action,
            outcome=outcome,
        )
        found = await self._log.page(wanted)
        more = len(found) > limit
        # One row too many was asked for: the farthest, which is the last going on.
        rows = (found[:limit] if after is not None else found[-limit:]) if more else found
        return {
            "object": "list",
            "data": [msgspec.to_builtins(row) for row in rows],
            "first": rows[0].seq if rows else None,
            "last": rows[-1].seq if rows else None,
            "has_more": more,
        }
