"""How usage lies in the database: one row for each day, tenant, key and model.

Every function works on one connection, within its caller's transaction.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.sqlite import insert

from opta_lmx.store.schema import Schema

Group = Literal["day", "tenant", "key", "model"]
GROUPS: tuple[Group, ...] = ("day", "tenant", "key", "model")
COUNTS = (
    "requests",
    "errors",
    "prompt_tokens",
    "cached_prompt_tokens",
    "output_tokens",
    "reasoning_tokens",
)

_metadata = MetaData()
_USAGE = Table(
    "usage_days",
    _metadata,
    Column("day", String(10), primary_key=True),
    Column("tenant", String(256), primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("model", String(512), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS),
    sqlite_with_rowid=False,
)


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_USAGE])


SCHEMA = Schema("usage", (_first_step,))
"""The tables of this room."""

_new = insert(_USAGE)
_UPSERT = _new.on_conflict_do_update(
    index_elements=[*GROUPS],
    set_={name: _USAGE.c[name] + _new.excluded[name] for name in COUNTS},
)


class Cell(msgspec.Struct, frozen=True):
    """Whose use of what, and on which day (UTC, `2031-05-31`)."""

    day: str
    tenant: str
    key: str
    model: str


class Counts(msgspec.Struct):
    """What was used; tokens are in tokens, those cached are among the prompt's."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, other: "Counts") -> None:
        """Count what another has as well."""
        self.requests += other.requests
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.cached_prompt_tokens += other.cached_prompt_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens


class Query(msgspec.Struct, frozen=True):
    """Which use is asked for, and what rows tell apart; days are inclusive, None is all."""

    since: date | None = None
    until: date | None = None
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    group_by: tuple[Group, ...] = GROUPS


def add(connection: Connection, used: Iterable[tuple[Cell, Counts]]) -> None:
    """Count more use."""
    rows = [
        {**msgspec.structs.asdict(cell), **msgspec.structs.asdict(counts)} for cell, counts in used
    ]
    if rows:
        connection.execute(_UPSERT, rows)


def forget(connection: Connection, before: str) -> None:
    """Delete all days before one."""
    connection.execute(delete(_USAGE).where(_USAGE.c.day < before))


def found(connection: Connection, query: Query, most: int) -> Sequence[dict[str, Any]]:
    """Use summed by what the query tells apart, in its order; one row more than `most` at most."""
    columns = _USAGE.c
    groups = [columns[name] for name in query.group_by]
    sums = [func.coalesce(func.sum(columns[name]), 0).label(name) for name in COUNTS]
    wanted = select(*groups, *sums)
    for name in ("tenant", "key", "model"):
        value: str | None = getattr(query, name)
        if value is not None:
            wanted = wanted.where(columns[name] == value)
    if query.since is not None:
        wanted = wanted.where(columns.day >= query.since.isoformat())
    if query.until is not None:
        wanted = wanted.where(columns.day <= query.until.isoformat())
    if groups:
        wanted = wanted.group_by(*groups).order_by(*groups)
    return [
        {str(name): value for name, value in row.items()}
        for row in connection.execute(wanted.limit(most + 1)).mappings()
    ]
