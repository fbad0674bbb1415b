"""`/admin/keys`: whose keys there are, what is left of their budgets; make, replace, end them.

A key's text is told once, in the answer that makes it. The scope `admin` is machine-wide: its
keys make, replace and end those of every tenant.
"""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opta_lmx.api.admin import bodies
from opta_lmx.api.audit import tell_target
from opta_lmx.api.callers import ENDS, PRINCIPAL, principal_of
from opta_lmx.api.documents import body_docs, error_docs
from opta_lmx.api.fields import MAX_INT64, ModelName, WireModel
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Budgets, Principal
from opta_lmx.serving.budgeting import Budgeting
from opta_lmx.tenancy.grants import LABEL, MAX_MODELS, MAX_NOTE_CHARS, Maker, lane_of, scopes_of
from opta_lmx.tenancy.key_book import Issued, KeyBook, unauthenticated
from opta_lmx.tenancy.keyring import Keyring, Known, known

Json = dict[str, Any]
_Label = Annotated[str, Field(pattern=LABEL)]
_Count = Annotated[int, Field(ge=1, le=MAX_INT64)]
_Words = Annotated[str, Field(min_length=1, max_length=64)]
_Scope = Literal["inference", "agents", "skills", "admin", "metrics"]
# The text of a key must stay in no cache on its way.
_UNCACHED = {"Cache-Control": "no-store"}


class BudgetsBody(WireModel):
    """The budgets of a key; what is left out has no bound."""

    prompt_tokens: _Count | None = None
    prompt_tokens_per_minute: _Count | None = None
    max_tokens: _Count | None = None
    kv_bytes: _Count | None = None


class CreateKeyBody(WireModel):
    """Body of create: what the key is called and may do."""

    name: _Label
    tenant: _Label = "default"
    scopes: list[_Scope] = Field(default=["inference"], min_length=1, max_length=16)
    models: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_MODELS)] | None = None
    lane: Literal["interactive", "agent", "background"] = "interactive"
    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    max_running: _Count | None = None
    budgets: BudgetsBody = BudgetsBody()
    expires: _Words = "never"
    note: Annotated[str, Field(max_length=MAX_NOTE_CHARS)] = ""

    def owner(self) -> Principal:
        """The owner it describes."""
        return Principal(
            tenant=self.tenant,
            key=self.name,
            lane=lane_of(self.lane),
            weight=self.weight,
            max_running=self.max_running,
            budgets=Budgets(**self.budgets.model_dump()),
            scopes=scopes_of(self.scopes),
            models=None if self.models is None else tuple(self.models),
        )


class RotateKeyBody(WireModel):
    """Body of rotate: how long the old text goes on working, when the new one ends."""

    grace: _Words = "0"
    expires: _Words | None = None


class AdminKeys:
    """The routes' work.

    Args:
        keyring: knows whose keys there are.
        book: makes and ends them.
        budgeting: knows what they have used.
        clock: time.
    """

    def __init__(self, keyring: Keyring, book: KeyBook, budgeting: Budgeting, clock: Clock) -> None:
        self._keyring = keyring
        self._book = book
        self._budgeting = budgeting
        self._clock = clock

    def router(self) -> APIRouter:
        """The routes."""
        routes = APIRouter(prefix="/admin")
        making = (400, 401, 403, 404, 408, 409, 413, 503)
        one = "/keys/{key_id}"
        for path, handler, method, statuses, docs in (
            ("/keys", self.keys, "GET", (401,), {}),
            ("/keys", self.create, "POST", making, body_docs(CreateKeyBody)),
            (f"{one}/rotate", self.rotate, "POST", making, _optional(body_docs(RotateKeyBody))),
            (one, self.revoke, "DELETE", (401, 404, 409, 503), {}),
        ):
            routes.add_api_route(
                path,
                handler,
                methods=[method],
                status_code=201 if method == "POST" else 200,
                response_model=None,
                responses=error_docs(*statuses),
                openapi_extra=docs,
            )
        return routes

    async def keys(self) -> Json:
        """Every key that is not over, those of the configuration first."""
        return {"object": "list", "data": [self._told(one) for one in self._keyring.principals()]}

    async def create(self, request: Request) -> Response:
        """Make a key; it may do no more than the one that asks for it."""
        asked = await bodies.read(request, CreateKeyBody)
        issued = await self._book.create(
            asked.owner(), expires=asked.expires, note=asked.note, maker=self._maker(request)
        )
        return await self._issued(request, issued)

    async def rotate(self, request: Request, key_id: str) -> Response:
        """Make another text for a key's owner, under a new id."""
        self._refuse_configured(key_id)
        asked = await bodies.read(request, RotateKeyBody, may_be_empty=True)
        issued = await self._book.rotate(
            key_id, grace=asked.grace, expires=asked.expires, maker=self._maker(request)
        )
        return await self._issued(request, issued)

    async def revoke(self, request: Request, key_id: str) -> Json:
        """End a key now; with an owner's present one, those it has replaced."""
        self._refuse_configured(key_id)
        row = await self._book.revoke(key_id)
        tell_target(request, row.in_words())
        self._keyring.forget(row)
        await self._keyring.refresh()
        return self._told(known(row, self._clock.now_ms()))

    async def _issued(self, request: Request, issued: Issued) -> Response:
        tell_target(request, issued.row.in_words())
        old = issued.replaced
        if old is not None and not old.opens(self._clock.now_ms()):
            self._keyring.forget(old)
        # At once here; other processes see it within their next look.
        await self._keyring.refresh()
        shown = self._told(known(issued.row, self._clock.now_ms()))
        return JSONResponse({**shown, "secret": issued.secret}, 201, headers=_UNCACHED)

    def _maker(self, request: Request) -> Maker:
        """Who asks; where no key is needed yet, whoever reaches the server may do everything."""
        anonymous = PRINCIPAL not in request.scope
        if anonymous and self._keyring.required:
            raise unauthenticated()
        return Maker(principal_of(request), request.scope.get(ENDS), anonymous)

    def _refuse_configured(self, key_id: str) -> None:
        configured = (one for one in self._keyring.principals() if one.source == "config")
        if any(one.owner.key == key_id for one in configured):
            raise LmxError(
                ErrorKind.CONFLICT,
                f"The key '{key_id}' is part of the configuration; change it there.",
                code="key_in_configuration",
            )

    def _told(self, one: Known) -> Json:
        owner = one.owner
        state = self._budgeting.state(owner)
        return {
            "id": one.id,
            "name": owner.key,
            "tenant": owner.tenant,
            "scopes": sorted(owner.scopes),
            "models": owner.models,
            "lane": owner.lane.name.lower(),
            "weight": owner.weight,
            "max_running": owner.max_running,
            "budgets": msgspec.structs.asdict(owner.budgets),
            "minute": None if state is None else msgspec.structs.asdict(state),
            "state": one.state,
            "source": one.source,
            "note": one.note,
            "created_ms": one.created_ms,
            "expires_ms": one.expires_ms,
            "replaced_ms": one.replaced_ms,
            "replaced_by": one.replaced_by,
        }


def _optional(docs: Json) -> Json:
    """A body that may be left out."""
    return {"requestBody": {**docs["requestBody"], "required": False}}
