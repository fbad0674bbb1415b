"""Stored responses: kept until they expire, read back by id, and continued as a conversation.

Each response keeps what it was asked besides what came before it, so a conversation is the chain
of its responses. A response does not expire before the youngest that builds on it; where room is
short, the oldest go all the same.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from sqlalchemy import Connection

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.serving import response_rows as rows
from opta_lmx.serving.response_rows import ID_LENGTH, RUNNING, Json, View
from opta_lmx.store.database import Database

Order = Literal["asc", "desc"]

DEFAULT_TENANT = "default"
BROKEN = ("failed", "cancelled")
_SWEEPS_PER_FILL = 16


class ResponseLimits(msgspec.Struct, frozen=True):
    """How long a response is kept (s), how many bytes all may take, and how far a chain goes.

    `max_turns` and `max_history_bytes` bound one conversation as it is read back.
    """

    ttl_s: float = 30 * 86_400.0
    max_bytes: int = 1024**3
    max_turns: int = 1000
    max_history_bytes: int = 64 * 1024**2


class Page(msgspec.Struct, frozen=True):
    """Some of the items of a list, and whether more follow."""

    items: tuple[Json, ...]
    has_more: bool


class StoredResponses:
    """Keeps responses in the database; every call may raise UNAVAILABLE `store_unavailable`.

    Args:
        database: opened with `SCHEMA` among its schemas.
        limits: how much is kept, and for how long.
        clock: time.
        telemetry: told what a sweep removed.
    """

    def __init__(
        self, database: Database, limits: ResponseLimits, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._telemetry = telemetry
        self._grown_bytes = 0

    @property
    def crowded(self) -> bool:
        """True when so much was stored since the last sweep that one is due."""
        return self._grown_bytes > self._limits.max_bytes // _SWEEPS_PER_FILL

    def check(self) -> None:
        """Raise UNAVAILABLE `store_unavailable` while nothing can be stored."""
        self._database.check()

    async def save(self, body: Json, inputs: Sequence[Json], tenant: str = DEFAULT_TENANT) -> None:
        """Keep a response; one of the same id is replaced. Returns when it is on the disk.

        Args:
            body: the response as clients see it, with `id`, `status`, `previous_response_id`
                and `output`.
            inputs: the items it was asked, each with an `id`; without those of earlier turns.
            tenant: whose it is.
        """
        asked = rows.item_rows(body["id"], 0, inputs, output=False)
        said = rows.item_rows(body["id"], len(asked), body["output"], output=True)
        row = self._row(body, sum(len(item["body"]) for item in asked), tenant)
        await self._database.write(lambda connection: rows.save(connection, row, [*asked, *said]))
        self._grown_bytes += row["bytes"]

    def _row(self, body: Json, input_bytes: int, tenant: str) -> Json:
        encoded = msgspec.json.encode(body)
        now_ms = self._clock.now_ms()
        return {
            "id": body["id"],
            "tenant": tenant,
            "previous_id": body["previous_response_id"],
            "status": body["status"],
            "created_ms": now_ms,
            "expires_ms": now_ms + round(self._limits.ttl_s * 1000),
            "bytes": rows.size_of(encoded, input_bytes),
            "body": encoded,
        }

    async def get(self, response_id: str, tenant: str = DEFAULT_TENANT) -> bytes:
        """The response as JSON. Raises NOT_FOUND `response_not_found`."""
        view = self._view(tenant)
        body = await self._database.read(
            lambda connection: rows.body_of(connection, response_id, view)
        )
        if body is None:
            raise _unknown(response_id)
        return body

    async def delete(self, response_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Forget a response. Raises NOT_FOUND `response_not_found`."""
        view = self._view(tenant)
        if not await self._database.write(
            lambda connection: rows.remove(connection, response_id, view)
        ):
            raise _unknown(response_id)

    async def input_items(
        self,
        response_id: str,
        *,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Page:
        """The items a response was asked, without those of earlier turns.

        Args:
            response_id: which response.
            limit: how many at most.
            order: `desc` begins with the last.
            after: an item's id; what follows it in this order is returned.
            tenant: whose it is.

        Raises:
            LmxError: NOT_FOUND `response_not_found`; INVALID_REQUEST for an unknown `after`.
        """
        view = self._view(tenant)

        def read(connection: Connection) -> Sequence[bytes]:
            if not rows.exists(connection, response_id, view):
                raise _unknown(response_id)
            found = rows.inputs_of(
                connection, response_id, limit + 1, backwards=order == "desc", after=after
            )
            if found is None:
                raise invalid("'after' names no item of this response.", param="after")
            return found

        found = await self._database.read(read)
        return Page(tuple(map(msgspec.json.decode, found[:limit])), len(found) > limit)

    async def check_previous(self, response_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Raise INVALID_REQUEST `previous_response_not_found` for a response that is gone."""
        view = self._view(tenant)
        if not await self._database.read(
            lambda connection: rows.exists(connection, response_id, view)
        ):
            raise _no_previous(response_id, at_once=True)

    async def history(self, response_id: str, tenant: str = DEFAULT_TENANT) -> list[Json]:
        """Every item of a conversation up to and with a response, oldest first.

        Raises:
            LmxError: INVALID_REQUEST `previous_response_not_found` when it, or a turn it builds
                on, is gone; `previous_response_failed` when it did not end well;
                `conversation_too_long` beyond the limits; CONFLICT `response_not_finished`
                while it is being made.
        """
        return await self._database.read(
            lambda connection: self._chain_items(connection, response_id, tenant)
        )

    def _chain_items(self, connection: Connection, response_id: str, tenant: str) -> list[Json]:
        chain = rows.chain_of(connection, response_id, self._view(tenant), self._limits.max_turns)
        if not chain or chain[-1].previous_id is not None:
            if len(chain) > self._limits.max_turns:
                raise _too_long(self._limits)
            raise _no_previous(response_id, at_once=not chain)
        for row in chain:
            if row.status in RUNNING:
                raise _unfinished(response_id)
            if row.status in BROKEN:
                raise _failed(response_id, row.status)
        size = sum(row.bytes for row in chain)
        if len(chain) > self._limits.max_turns or size > self._limits.max_history_bytes:
            raise _too_long(self._limits)
        return [
            msgspec.json.decode(body)
            for row in reversed(chain)
            for body in rows.items_of(connection, row.id)
        ]

    async def items(self, ids: Sequence[str], tenant: str = DEFAULT_TENANT) -> dict[str, Json]:
        """Stored items by id; those that are unknown are left out."""
        view = self._view(tenant)
        found = await self._database.read(
            lambda connection: rows.items_named(connection, ids, view)
        )
        return {item_id: msgspec.json.decode(body) for item_id, body in found.items()}

    def _view(self, tenant: str) -> View:
        return View(tenant, self._clock.now_ms())

    async def unfinished(self) -> list[Json]:
        """Responses that were being made when the server ended: nobody works on them now."""
        return [msgspec.json.decode(body) for body in await self._database.read(rows.unfinished)]

    async def replace(self, body: Json) -> None:
        """Store the new state of an unfinished response, and its output.

        What it was asked stays; one that has ended meanwhile, or was deleted, stays as it is.
        """
        encoded = msgspec.json.encode(body)
        await self._database.write(lambda connection: rows.replace(connection, body, encoded))

    async def sweep(self) -> int:
        """Remove what has expired, then the oldest beyond the bytes allowed; how many went."""
        now_ms, most = self._clock.now_ms(), self._limits.max_bytes
        self._grown_bytes = 0
        gone = 0
        while batch := await self._database.write(
            lambda connection: rows.sweep(connection, now_ms, most)
        ):
            gone += batch
        if gone:
            await self._database.shrink()
            self._telemetry.log("info", "stored responses removed", count=gone)
        return gone


def _unknown(response_id: str) -> LmxError:
    return LmxError(
        ErrorKind.NOT_FOUND,
        f"Response with id '{response_id[:ID_LENGTH]}' not found.",
        code="response_not_found",
        param="response_id",
    )


def _no_previous(asked: str, *, at_once: bool) -> LmxError:
    shown = asked[:ID_LENGTH]
    message = f"Previous response with id '{shown}' not found."
    if not at_once:
        message = f"A turn that the previous response '{shown}' builds on is no longer stored."
    return invalid(message, param="previous_response_id", code="previous_response_not_found")


def _unfinished(response_id: str) -> LmxError:
    return LmxError(
        ErrorKind.CONFLICT,
        f"The previous response '{response_id[:ID_LENGTH]}' is not finished yet.",
        code="response_not_finished",
        param="previous_response_id",
    )


def _failed(response_id: str, status: str) -> LmxError:
    return invalid(
        f"The previous response '{response_id[:ID_LENGTH]}' is {status}: continue the one before.",
        param="previous_response_id",
        code="previous_response_failed",
    )


def _too_long(limits: ResponseLimits) -> LmxError:
    return invalid(
        f"The conversation is longer than {limits.max_turns} stored turns or "
        f"{limits.max_history_bytes} bytes: compact it, or send what matters as input.",
        param="previous_response_id",
        code="conversation_too_long",
    )
