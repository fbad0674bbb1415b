"""How benchmark results lie in the database: one table, the newest kept."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)

from opta_lmx.store.schema import Schema

KEPT = 1000
"""Results that are kept, of all models together; the oldest go first."""

_metadata = MetaData()
_BENCHMARKS = Table(
    "benchmarks",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("model", String(512), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("benchmarks_by_model", "model", "id"),
)


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_BENCHMARKS])


SCHEMA = Schema("benchmarks", (_first_step,))
"""The tables of this room."""


def save(connection: Connection, row: dict[str, Any], kept: int = KEPT) -> None:
    """Keep a result (`id`, `model`, `created_ms`, `body`); ids grow with time."""
    connection.execute(insert(_BENCHMARKS).values(**row))
    oldest = select(_BENCHMARKS.c.id).order_by(_BENCHMARKS.c.id.desc()).offset(kept)
    connection.execute(delete(_BENCHMARKS).where(_BENCHMARKS.c.id.in_(oldest.limit(kept))))


def newest(connection: Connection, model: str | None, limit: int) -> Sequence[bytes]:
    """The newest results as JSON, of one model or of all."""
    wanted = select(_BENCHMARKS.c.body).order_by(_BENCHMARKS.c.id.desc()).limit(limit)
    if model is not None:
        wanted = wanted.where(_BENCHMARKS.c.model == model)
    return connection.scalars(wanted).all()
