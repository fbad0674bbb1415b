"""`/admin/quotas`: what keys and tenants may use, what is left of it; changed without a restart.

Quotas that are put here take the place of all that the configuration says of the same key or
tenant, until they are deleted. The scope `admin` is machine-wide.
"""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import Field

from opta_lmx.api.admin import bodies
from opta_lmx.api.documents import body_docs, error_docs
from opta_lmx.api.fields import MAX_INT64, WireModel
from opta_lmx.core.principal import Quotas
from opta_lmx.serving.metering import Metering
from opta_lmx.tenancy.quotas import Holding, not_found
from opta_lmx.tenancy.quotas_rows import Subject

Json = dict[str, Any]
_Count = Annotated[int, Field(ge=1, le=MAX_INT64)]


class QuotasBody(WireModel):
    """All quotas of one key or tenant; what is left out is not bounded."""

    requests_per_minute: _Count | None = None
    requests_per_day: _Count | None = None
    prompt_tokens_per_minute: _Count | None = None
    prompt_tokens_per_day: _Count | None = None
    output_tokens_per_minute: _Count | None = None
    output_tokens_per_day: _Count | None = None
    agent_runs_per_minute: _Count | None = None
    agent_runs_per_day: _Count | None = None
    skill_calls_per_minute: _Count | None = None
    skill_calls_per_day: _Count | None = None
    concurrency: _Count | None = None


class AdminQuotas:
    """The routes' work.

    Args:
        metering: knows quotas, and what was used of them.
    """

    def __init__(self, metering: Metering) -> None:
        self._metering = metering
        self._book = metering.quotas

    def router(self) -> APIRouter:
        """The routes."""
        routes = APIRouter(prefix="/admin/quotas")
        routes.add_api_route(
            "", self.quotas, methods=["GET"], response_model=None, responses=error_docs(401, 503)
        )
        for path, get, put, delete in (
            ("/keys/{name}", self.key, self.put_key, self.delete_key),
            ("/tenants/{name}", self.tenant, self.put_tenant, self.delete_tenant),
        ):
            for method, handler, statuses, docs in (
                ("GET", get, (401, 404, 503), {}),
                ("PUT", put, (400, 401, 408, 413, 503), body_docs(QuotasBody)),
                ("DELETE", delete, (401, 404, 503), {}),
            ):
                routes.add_api_route(
                    path,
                    handler,
                    methods=[method],
                    response_model=None,
                    responses=error_docs(*statuses),
                    openapi_extra=docs,
                )
        return routes

    async def quotas(self) -> Json:
        """All quotas in force."""
        told = [await self._told(one) for one in self._book.holdings()]
        return {"object": "list", "data": told}

    async def key(self, name: str) -> Json:
        """The quotas of a key."""
        return await self._one(Subject("key", name))

    async def tenant(self, name: str) -> Json:
        """The quotas of a tenant."""
        return await self._one(Subject("tenant", name))

    async def put_key(self, request: Request, name: str) -> Json:
        """Give a key quotas, in place of all it had."""
        return await self._put(request, Subject("key", name))

    async def put_tenant(self, request: Request, name: str) -> Json:
        """Give a tenant quotas, in place of all it had."""
        return await self._put(request, Subject("tenant", name))

    async def delete_key(self, name: str) -> Json:
        """Forget a key's stored quotas; those of the configuration hold again."""
        return await self._delete(Subject("key", name))

    async def delete_tenant(self, name: str) -> Json:
        """Forget a tenant's stored quotas; those of the configuration hold again."""
        return await self._delete(Subject("tenant", name))

    async def _one(self, subject: Subject) -> Json:
        found = self._book.holding(subject)
        if found is None:
            raise not_found(subject)
        return await self._told(found)

    async def _put(self, request: Request, subject: Subject) -> Json:
        asked = await bodies.read(request, QuotasBody)
        await self._book.put(subject, Quotas(**asked.model_dump()))
        return await self._one(subject)

    async def _delete(self, subject: Subject) -> Json:
        if not await self._book.clear(subject):
            raise not_found(subject)
        left = self._book.holding(subject)
        return {
            "object": "quotas.deleted",
            subject.whose: subject.name,
            "deleted": True,
            "left": None if left is None else msgspec.structs.asdict(left.quotas),
        }

    async def _told(self, one: Holding) -> Json:
        levels = await self._metering.standing(one)
        return {
            "object": "quotas",
            one.subject.whose: one.subject.name,
            "source": one.source,
            "limits": msgspec.structs.asdict(one.quotas),
            "standing": [
                {
                    "resource": level.limit.resource,
                    "window": level.limit.span,
                    "limit": level.limit.most,
                    "remaining": level.remaining,
                    "reset_s": level.reset_ms / 1000,
                }
                for level in levels
            ],
        }
