"""`/v1/ws/tickets`: a word that opens one WebSocket in place of a key, once and soon.

A browser can give a WebSocket no headers. A page, or the server behind it, asks here with its key
for a ticket and opens the socket with that: as a subprotocol (`lmx-ticket.<…>`) or in the address
(`?ticket=<…>`), where a key must never stand.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from opta_lmx.api.admin import bodies
from opta_lmx.api.callers import ENDS, OWNER, principal_of
from opta_lmx.api.credentials import shown_ticket
from opta_lmx.api.documents import body_docs, error_docs
from opta_lmx.api.fields import WireModel
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal

PATH = "/v1/ws/tickets"
TICKET_S = 30
"""How long a ticket may be shown (s)."""
PER_KEY = 32
"""Tickets that one key may have which were not shown yet."""
IN_ALL = 8192

_BYTES = 32
# A ticket must stay in no cache on its way.
_UNCACHED = {"Cache-Control": "no-store"}


class Held(msgspec.Struct, frozen=True):
    """What a ticket stands for.

    Attributes:
        again: finds the owner of the key that it was made with anew; raises LmxError when that
            key is good no more.
        ends_ms: when that key ends, in UTC milliseconds; None for never.
        whose: tenant and name of the key.
        origin: of the page that asked for it; None where a program did.
        until: when it is over, on the monotonic clock (s).
    """

    again: Callable[[], Principal]
    ends_ms: int | None
    whose: tuple[str, str]
    origin: str | None
    until: float

    def owner(self, _: str) -> Principal:
        """Whose it is, told like a key's. Raises LmxError when the key is good no more."""
        return self.again()


class Tickets:
    """The tickets that were made and not shown yet: in memory alone, as digests.

    Each may be taken once, whether or not that succeeds: nothing is awaited in between.

    Args:
        clock: time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[bytes, Held] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def make(
        self,
        owner: Principal,
        again: Callable[[], Principal],
        ends_ms: int | None,
        origin: str | None,
    ) -> str:
        """Make a ticket for the owner of a key; arguments as in `Held`.

        Raises:
            LmxError: RATE_LIMITED `too_many_tickets`.
        """
        self._forget_old()
        whose = (owner.tenant, owner.key)
        if self._counts[whose] >= PER_KEY or len(self._held) >= IN_ALL:
            raise self._too_many(whose)
        ticket = secrets.token_urlsafe(_BYTES)
        until = self._clock.monotonic() + TICKET_S
        self._held[_digest(ticket)] = Held(again, ends_ms, whose, origin, until)
        self._counts[whose] += 1
        return ticket

    def take(self, ticket: str, origin: str | None) -> Held | None:
        """What a ticket stands for, which is over with that; None: it is none, or not for here.

        `origin` is that of the page that shows it.
        """
        self._forget_old()
        digest = _digest(ticket)
        held = self._held.get(digest)
        if held is None:
            return None
        self._drop(digest)
        fits = held.origin is None or held.origin == origin
        return held if fits else None

    def taken_from(self, scope: Scope, headers: Headers) -> Held | None:
        """As `take`, of the ticket that a handshake shows; None for none, too."""
        ticket = shown_ticket(scope)
        return self.take(ticket, headers.get("origin")) if ticket else None

    def _too_many(self, whose: tuple[str, str]) -> LmxError:
        first = next(
            (one for one in self._held.values() if one.whose == whose),
            next(iter(self._held.values())),
        )
        return LmxError(
            ErrorKind.RATE_LIMITED,
            f"There are {PER_KEY} tickets already that were not shown. Retry later.",
            code="too_many_tickets",
            retry_after=max(0.0, first.until - self._clock.monotonic()),
        )

    def _forget_old(self) -> None:
        """All last equally long, so the oldest stand first."""
        now = self._clock.monotonic()
        while self._held:
            digest, held = next(iter(self._held.items()))
            if held.until > now:
                return
            self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        whose = self._held.pop(digest).whose
        self._counts[whose] -= 1
        if not self._counts[whose]:
            del self._counts[whose]


def _digest(ticket: str) -> bytes:
    """What is kept of a ticket: finding one by its digest tells nothing of how near a guess was."""
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()


class TicketBody(WireModel):
    """Body of a request for a ticket: nothing can be asked for."""


class TicketRoutes:
    """The route.

    Args:
        tickets: what there is.
    """

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets

    def router(self) -> APIRouter:
        """The route."""
        routes = APIRouter()
        docs: dict[str, Any] = body_docs(TicketBody)
        docs["requestBody"]["required"] = False
        routes.add_api_route(
            PATH,
            self.make,
            methods=["POST"],
            status_code=201,
            response_model=None,
            responses=error_docs(400, 401, 403, 408, 413, 429),
            openapi_extra=docs,
        )
        return routes

    async def make(self, request: Request) -> Response:
        """Make a ticket that opens one WebSocket, within seconds, for the owner of the key."""
        await bodies.read(request, TicketBody, may_be_empty=True)
        scope = request.scope
        ticket = self._tickets.make(
            principal_of(request), scope[OWNER], scope.get(ENDS), request.headers.get("origin")
        )
        told = {"ticket": ticket, "expires_in_s": TICKET_S}
        return JSONResponse(told, 201, headers=_UNCACHED)
