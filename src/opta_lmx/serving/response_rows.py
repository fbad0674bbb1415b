"""How responses lie in the database: two tables, and what is read from and written to them.

Every function works on one connection, within its caller's transaction.
"""

from collections.abc import Sequence
from typing import Any

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

from opta_lmx.store.schema import Schema

Json = dict[str, Any]

RUNNING = ("queued", "in_progress")
ID_LENGTH = 128
_SWEEP_BATCH = 500

_metadata = MetaData()
_RESPONSES = Table(
    "responses",
    _metadata,
    Column("id", String(ID_LENGTH), primary_key=True),
    Column("tenant", String(ID_LENGTH), nullable=False),
    Column("previous_id", String(ID_LENGTH)),
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
        String(ID_LENGTH),
        ForeignKey("responses.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", Integer, primary_key=True),
    Column("item_id", String(ID_LENGTH), nullable=False),
    Column("output", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("response_items_by_id", "item_id"),
)


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_RESPONSES, _ITEMS])


SCHEMA = Schema("responses", (_first_step,))
"""The tables of this room."""


class View(msgspec.Struct, frozen=True):
    """Whose responses are seen, and when (UTC ms): what has expired by then is not there."""

    tenant: str
    now_ms: int

    def living(self) -> tuple[Any, Any]:
        """The conditions on rows of responses."""
        return (_RESPONSES.c.tenant == self.tenant, _RESPONSES.c.expires_ms > self.now_ms)


def body_of(connection: Connection, response_id: str, view: View) -> bytes | None:
    """A response as JSON; None where it is not there."""
    wanted = select(_RESPONSES.c.body).where(_RESPONSES.c.id == response_id, *view.living())
    return connection.scalar(wanted)


def exists(connection: Connection, response_id: str, view: View) -> bool:
    """Whether a response is there."""
    wanted = select(_RESPONSES.c.id).where(_RESPONSES.c.id == response_id, *view.living())
    return connection.scalar(wanted) is not None


def remove(connection: Connection, response_id: str, view: View) -> bool:
    """Delete a response; whether it was there."""
    unwanted = delete(_RESPONSES).where(_RESPONSES.c.id == response_id, *view.living())
    return connection.execute(unwanted).rowcount > 0


def inputs_of(
    connection: Connection, response_id: str, limit: int, *, backwards: bool, after: str | None
) -> Sequence[bytes] | None:
    """The items a response was asked, as JSON; None where none of them has the id `after`."""
    columns = _ITEMS.c
    asked = [columns.response_id == response_id, columns.output.is_(False)]
    order = columns.position.desc() if backwards else columns.position.asc()
    if after is not None:
        named = select(columns.position).where(*asked, columns.item_id == after).order_by(order)
        place = connection.scalar(named.limit(1))
        if place is None:
            return None
        asked.append(columns.position < place if backwards else columns.position > place)
    wanted = select(columns.body).where(*asked).order_by(order).limit(limit)
    return connection.scalars(wanted).all()


def items_of(connection: Connection, response_id: str) -> Sequence[bytes]:
    """Every item of a response as JSON: what it was asked, then its output."""
    wanted = (
        select(_ITEMS.c.body).where(_ITEMS.c.response_id == response_id).order_by(_ITEMS.c.position)
    )
    return connection.scalars(wanted).all()


def items_named(connection: Connection, ids: Sequence[str], view: View) -> dict[str, bytes]:
    """Items as JSON by their ids; those that are not there are left out."""
    wanted = (
        select(_ITEMS.c.item_id, _ITEMS.c.body)
        .join(_RESPONSES, _RESPONSES.c.id == _ITEMS.c.response_id)
        .where(_ITEMS.c.item_id.in_(ids), *view.living())
    )
    return {row[0]: row[1] for row in connection.execute(wanted)}


def chain_of(connection: Connection, response_id: str, view: View, most: int) -> list[Any]:
    """A response and those it builds on, newest first; one more than `most` at most.

    Each row has `id`, `previous_id`, `bytes` and `status`.
    """
    columns = _RESPONSES.c
    shown = (columns.id, columns.previous_id, columns.bytes, columns.status)
    chain = (
        select(*shown, literal(0).label("age"))
        .where(columns.id == response_id, *view.living())
        .cte("chain", recursive=True)
    )
    chain = chain.union_all(
        select(*shown, chain.c.age + 1)
        .join(chain, columns.id == chain.c.previous_id)
        .where(*view.living(), chain.c.age < most)
    )
    return list(connection.execute(select(chain).order_by(chain.c.age)))


def unfinished(connection: Connection) -> Sequence[bytes]:
    """Every response, as JSON, that has not ended."""
    wanted = select(_RESPONSES.c.body).where(_RESPONSES.c.status.in_(RUNNING))
    return connection.scalars(wanted).all()


def item_rows(response_id: str, first: int, items: Sequence[Json], *, output: bool) -> list[Json]:
    """The rows of items that begin at position `first` of a response."""
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


def save(connection: Connection, row: Json, items: list[Json]) -> None:
    """Write a response with its items, in the place of one of the same id."""
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


def replace(connection: Connection, body: Json, encoded: bytes) -> None:
    """Write the new state of a response that has not ended, and its output."""
    response_id = body["id"]
    columns = _RESPONSES.c
    inputs = select(func.count(literal(1)), func.sum(func.length(_ITEMS.c.body))).where(
        _ITEMS.c.response_id == response_id, _ITEMS.c.output.is_(False)
    )
    asked, size = connection.execute(inputs).one()
    values = {
        "status": body["status"],
        "body": encoded,
        "bytes": size_of(encoded, size or 0),
    }
    running = (columns.id == response_id, columns.status.in_(RUNNING))
    changed = connection.execute(update(_RESPONSES).where(*running).values(**values))
    if not changed.rowcount:
        return  # Its owner did not want it, or it was made while somebody took it for lost.
    connection.execute(
        delete(_ITEMS).where(_ITEMS.c.response_id == response_id, _ITEMS.c.output.is_(True))
    )
    items = item_rows(response_id, asked, body["output"], output=True)
    if items:
        connection.execute(insert(_ITEMS), items)


def size_of(encoded: bytes, input_bytes: int) -> int:
    """About how many bytes a response takes: its output is kept twice."""
    return 2 * len(encoded) + input_bytes


def sweep(connection: Connection, now_ms: int, most: int) -> int:
    """Remove one batch, so that other writes get their turn; how many went.

    Args:
        connection: that writes.
        now_ms: what has expired by then goes first.
        most: bytes that all may take; beyond, the oldest go.
    """
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
