"""Stored responses: kept until they expire, read back by id, and continued as a conversation.

Each response keeps what it was asked besides what came before it, so a conversation is the chain
of its responses. A response lives at least as long as the youngest that builds on it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.store.database import Database
from opta_lmx.store.schema import Schema

Json = dict[str, Any]
Order = Literal["asc", "desc"]

DEFAULT_TENANT = "default"
RUNNING = ("queued", "in_progress")
BROKEN = ("failed", "cancelled")
_ID_LENGTH = 128
_SWEEP_BATCH = 500
_SWEEPS_PER_FILL = 16

_metadata = MetaData()
_RESPONSES = Table(
    "responses",
    _metadata,
    Column("id", String(_ID_LENGTH), primary_key=True),
    Column("tenant", String(_ID_LENGTH), nullable=False),
    Column("previous_id", String(_ID_LENGTH)),
    Column("status", String(32), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("responses_by_expiry", "expires_ms"),
    Index("responses_by_age", "created_ms"),
)
_ITEMS = Table(
    "response_items",
    _metadata,
    Column(
        "response_id",
        String(_ID_LENGTH),
        ForeignKey("responses.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", Integer, primary_key=True),
    Column("item_id", String(_ID_LENGTH), nullable=False),
    Column("output", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("response_items_by_id", "item_id"),
)


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_RESPONSES, _ITEMS])


SCHEMA = Schema("responses", (_first_step,))
"""The tables of this room."""


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
        row = self._row(body, inputs, tenant)
        items = [
            *_item_rows(body["id"], 0, inputs, output=False),
            *_item_rows(body["id"], len(inputs), body["output"], output=True),
        ]
        await self._database.write(lambda connection: _save(connection, row, items))
        self._grown_bytes += row["bytes"]

    def _row(self, body: Json, inputs: Sequence[Json], tenant: str) -> Json:
        encoded = msgspec.json.encode(body)
        now_ms = self._clock.now_ms()
        return {
            "id": body["id"],
            "tenant": tenant,
            "previous_id": body["previous_response_id"],
            "status": body["status"],
            "created_ms": now_ms,
            "expires_ms": now_ms + round(self._limits.ttl_s * 1000),
            "bytes": 2 * len(encoded) + len(msgspec.json.encode(inputs)),
            "body": encoded,
        }

    async def get(self, response_id: str, tenant: str = DEFAULT_TENANT) -> bytes:
        """The response as JSON. Raises NOT_FOUND `response_not_found`."""
        wanted = select(_RESPONSES.c.body).where(*self._living(response_id, tenant))
        body = await self._database.read(lambda connection: connection.scalar(wanted))
        if body is None:
            raise _unknown(response_id)
        return body

    async def delete(self, response_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Forget a response. Raises NOT_FOUND `response_not_found`."""
        unwanted = delete(_RESPONSES).where(*self._living(response_id, tenant))
        gone = await self._database.write(lambda connection: connection.execute(unwanted).rowcount)
        if not gone:
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
        rows = await self._database.read(
            lambda connection: self._inputs(connection, response_id, tenant)
        )
        if order == "desc":
            rows.reverse()
        if after is not None:
            places = [place for place, (item_id, _) in enumerate(rows) if item_id == after]
            if not places:
                raise invalid("'after' names no item of this response.", param="after")
            rows = rows[places[0] + 1 :]
        shown = tuple(msgspec.json.decode(body) for _, body in rows[:limit])
        return Page(shown, len(rows) > limit)

    def _inputs(
        self, connection: Connection, response_id: str, tenant: str
    ) -> list[tuple[str, bytes]]:
        known = select(_RESPONSES.c.id).where(*self._living(response_id, tenant))
        if connection.scalar(known) is None:
            raise _unknown(response_id)
        wanted = (
            select(_ITEMS.c.item_id, _ITEMS.c.body)
            .where(_ITEMS.c.response_id == response_id, _ITEMS.c.output.is_(False))
            .order_by(_ITEMS.c.position)
        )
        return [(row[0], row[1]) for row in connection.execute(wanted)]

    async def check_previous(self, response_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Raise INVALID_REQUEST `previous_response_not_found` for a response that is gone."""
        wanted = select(_RESPONSES.c.id).where(*self._living(response_id, tenant))
        if await self._database.read(lambda connection: connection.scalar(wanted)) is None:
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
        chain = self._chain(connection, response_id, tenant)
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
            for body in _items_of(connection, row.id)
        ]

    def _chain(self, connection: Connection, response_id: str, tenant: str) -> list[Any]:
        """A response and those it builds on, newest first; one more than allowed at most."""
        columns = _RESPONSES.c
        shown = (columns.id, columns.previous_id, columns.bytes, columns.status)
        living = (columns.tenant == tenant, columns.expires_ms > self._clock.now_ms())
        chain = (
            select(*shown, literal(0).label("age"))
            .where(columns.id == response_id, *living)
            .cte("chain", recursive=True)
        )
        chain = chain.union_all(
            select(*shown, chain.c.age + 1)
            .join(chain, columns.id == chain.c.previous_id)
            .where(*living, chain.c.age < self._limits.max_turns)
        )
        return list(connection.execute(select(chain).order_by(chain.c.age)))

    async def items(self, ids: Sequence[str], tenant: str = DEFAULT_TENANT) -> dict[str, Json]:
        """Stored items by id; those that are unknown are left out."""
        wanted = (
            select(_ITEMS.c.item_id, _ITEMS.c.body)
            .join(_RESPONSES, _RESPONSES.c.id == _ITEMS.c.response_id)
            .where(
                _ITEMS.c.item_id.in_(ids),
                _RESPONSES.c.tenant == tenant,
                _RESPONSES.c.expires_ms > self._clock.now_ms(),
            )
        )
        rows = await self._database.read(lambda connection: connection.execute(wanted).all())
        return {row[0]: msgspec.json.decode(row[1]) for row in rows}

    def _living(self, response_id: str, tenant: str) -> tuple[Any, ...]:
        columns = _RESPONSES.c
        now_ms = self._clock.now_ms()
        return (columns.id == response_id, columns.tenant == tenant, columns.expires_ms > now_ms)

    async def unfinished(self) -> list[Json]:
        """Responses that were being made when the server ended: nobody works on them now."""
        wanted = select(_RESPONSES.c.body).where(_RESPONSES.c.status.in_(RUNNING))
        rows = await self._database.read(lambda connection: connection.scalars(wanted).all())
        return [msgspec.json.decode(body) for body in rows]

    async def replace(self, body: Json) -> None:
        """Store the new state of an unfinished response, and its output.

        What it was asked stays; one that has ended meanwhile, or was deleted, stays as it is.
        """
        encoded = msgspec.json.encode(body)
        await self._database.write(lambda connection: _replace(connection, body, encoded))

    async def sweep(self) -> int:
        """Remove what has expired, then the oldest beyond the bytes allowed; how many went."""
        now_ms, most = self._clock.now_ms(), self._limits.max_bytes
        self._grown_bytes = 0
        gone = 0
        while batch := await self._database.write(lambda rows: _sweep(rows, now_ms, most)):
            gone += batch
        if gone:
            await self._database.shrink()
            self._telemetry.log("info", "stored responses removed", count=gone)
        return gone


def _item_rows(response_id: str, first: int, items: Sequence[Json], *, output: bool) -> list[Json]:
    return [
        {
            "response_id": response_id,
            "position": position,
            "item_id": item["id"],
            "output": output,
            "body": msgspec.json.encode(item),
        }
        for position, item in enumerate(items, first)
    ]


def _save(connection: Connection, row: Json, items: list[Json]) -> None:
    connection.execute(delete(_RESPONSES).where(_RESPONSES.c.id == row["id"]))
    connection.execute(insert(_RESPONSES), [row])
    if items:
        connection.execute(insert(_ITEMS), items)
    if row["previous_id"] is not None:
        _keep_chain(connection, row["previous_id"], row["expires_ms"])


def _keep_chain(connection: Connection, response_id: str, expires_ms: int) -> None:
    """What a living response builds on must not expire before it."""
    columns = _RESPONSES.c
    chain = (
        select(columns.id, columns.previous_id)
        .where(columns.id == response_id)
        .cte("chain", recursive=True)
    )
    chain = chain.union(
        select(columns.id, columns.previous_id).join(chain, columns.id == chain.c.previous_id)
    )
    connection.execute(
        update(_RESPONSES)
        .where(columns.id.in_(select(chain.c.id)), columns.expires_ms < expires_ms)
        .values(expires_ms=expires_ms)
    )


def _replace(connection: Connection, body: Json, encoded: bytes) -> None:
    response_id = body["id"]
    columns = _RESPONSES.c
    inputs = select(func.count(literal(1)), func.sum(func.length(_ITEMS.c.body))).where(
        _ITEMS.c.response_id == response_id, _ITEMS.c.output.is_(False)
    )
    asked, size = connection.execute(inputs).one()
    values = {"status": body["status"], "body": encoded, "bytes": 2 * len(encoded) + (size or 0)}
    unfinished = (columns.id == response_id, columns.status.in_(RUNNING))
    changed = connection.execute(update(_RESPONSES).where(*unfinished).values(**values))
    if not changed.rowcount:
        return  # Its owner did not want it, or it was made while somebody took it for lost.
    connection.execute(
        delete(_ITEMS).where(_ITEMS.c.response_id == response_id, _ITEMS.c.output.is_(True))
    )
    items = _item_rows(response_id, asked, body["output"], output=True)
    if items:
        connection.execute(insert(_ITEMS), items)


def _items_of(connection: Connection, response_id: str) -> Sequence[bytes]:
    wanted = (
        select(_ITEMS.c.body).where(_ITEMS.c.response_id == response_id).order_by(_ITEMS.c.position)
    )
    return connection.scalars(wanted).all()


def _sweep(connection: Connection, now_ms: int, most: int) -> int:
    """Remove one batch, so that other writes get their turn."""
    columns = _RESPONSES.c
    expired = select(columns.id).where(columns.expires_ms <= now_ms).limit(_SWEEP_BATCH)
    ids = list(connection.scalars(expired))
    if not ids:
        surplus = (connection.scalar(select(func.sum(columns.bytes))) or 0) - most
        oldest = select(columns.id, columns.bytes).order_by(columns.created_ms, columns.id)
        for row in connection.execute(oldest.limit(_SWEEP_BATCH)):
            if surplus <= 0:
                break
            ids.append(row[0])
            surplus -= row[1]
    if ids:
        connection.execute(delete(_RESPONSES).where(columns.id.in_(ids)))
    return len(ids)


def _unknown(response_id: str) -> LmxError:
    return LmxError(
        ErrorKind.NOT_FOUND,
        f"Response with id '{response_id[:_ID_LENGTH]}' not found.",
        code="response_not_found",
        param="response_id",
    )


def _no_previous(asked: str, *, at_once: bool) -> LmxError:
    shown = asked[:_ID_LENGTH]
    message = f"Previous response with id '{shown}' not found."
    if not at_once:
        message = f"A turn that the previous response '{shown}' builds on is no longer stored."
    return invalid(message, param="previous_response_id", code="previous_response_not_found")


def _unfinished(response_id: str) -> LmxError:
    return LmxError(
        ErrorKind.CONFLICT,
        f"The previous response '{response_id[:_ID_LENGTH]}' is not finished yet.",
        code="response_not_finished",
        param="previous_response_id",
    )


def _failed(response_id: str, status: str) -> LmxError:
    return invalid(
        f"The previous response '{response_id[:_ID_LENGTH]}' is {status}: continue the one before.",
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
