"""What a room keeps in the database: its tables as numbered steps that only go forward."""

from collections.abc import Callable

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
)

from opta_lmx.core.errors import ErrorKind, LmxError

Step = Callable[[Connection], None]

_metadata = MetaData()
APPLIED = Table(
    "lmx_migrations",
    _metadata,
    Column("room", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("applied_ms", BigInteger, nullable=False),
)
"""Which steps of which room this database has taken, and when (UTC milliseconds)."""


class Schema(msgspec.Struct, frozen=True):
    """One room's tables. Step number n of `steps` (from 1) leads from version n-1 to n.

    A step that was released is never changed again; a new one is added behind it.
    """

    room: str
    steps: tuple[Step, ...]


class Pending(msgspec.Struct, frozen=True):
    """A step that this database has yet to take."""

    room: str
    number: int
    step: Step


def pending(connection: Connection, schemas: tuple[Schema, ...]) -> list[Pending]:
    """Return the steps that are missing, in order.

    Raises:
        LmxError: UNAVAILABLE `store_schema_newer`; the database was written by a later version.
    """
    done = _versions(connection)
    missing: list[Pending] = []
    for schema in schemas:
        version = done.get(schema.room, 0)
        if version > len(schema.steps):
            raise _newer(schema, version)
        missing += [
            Pending(schema.room, number, step)
            for number, step in enumerate(schema.steps, 1)
            if number > version
        ]
    return missing


def is_empty(connection: Connection) -> bool:
    """True for a database that holds nothing yet."""
    return not inspect(connection).get_table_names()


def take(connection: Connection, step: Pending, now_ms: int) -> None:
    """Apply one step and note it; both stand or fall with the caller's transaction."""
    _metadata.create_all(connection)
    step.step(connection)
    row = {"room": step.room, "number": step.number, "applied_ms": now_ms}
    connection.execute(insert(APPLIED).values(**row))


def _versions(connection: Connection) -> dict[str, int]:
    if not inspect(connection).has_table(APPLIED.name):
        return {}
    found: dict[str, int] = {}
    for room, number in connection.execute(select(APPLIED.c.room, APPLIED.c.number)):
        found[room] = max(found.get(room, 0), number)
    return found


def _newer(schema: Schema, version: int) -> LmxError:
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"The database holds version {version} of '{schema.room}'; this program knows only "
        f"{len(schema.steps)}. Update the program, or restore the copy made before the update.",
        code="store_schema_newer",
    )
