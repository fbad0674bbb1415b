"""How quotas lie in the database: for each key or tenant that has some, all of them in one row.

Every function works on one connection, within its caller's transaction.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from opta_lmx.core.principal import Quotas
from opta_lmx.store.schema import Schema
from opta_lmx.tenancy.windows import Whose

_metadata = MetaData()
_QUOTAS = Table(
    "quotas",
    _metadata,
    Column("whose", String(16), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("limits", String(1024), nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
)
_CHANGES = Table(
    "quota_changes",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
)
"""One row: how often quotas were changed, by whatever process."""


class Subject(msgspec.Struct, frozen=True, order=True):
    """Whose quotas: those of a key or of a tenant, by its name."""

    whose: Whose
    name: str


class Found(msgspec.Struct, frozen=True):
    """The quotas as of a number of changes."""

    number: int
    quotas: Mapping[Subject, Quotas]


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_QUOTAS, _CHANGES])
    connection.execute(insert(_CHANGES).values(id=1, number=0))


SCHEMA = Schema("quotas", (_first_step,))
"""The tables of this room."""


def changed(connection: Connection, seen: int | None) -> Found | None:
    """All quotas; None where nothing has changed since `seen`."""
    number: int = connection.scalar(select(_CHANGES.c.number)) or 0
    return None if number == seen else Found(number, every(connection))


def every(connection: Connection) -> dict[Subject, Quotas]:
    """All quotas there are, by whose they are."""
    found: dict[Subject, Quotas] = {}
    columns = _QUOTAS.c
    wanted = select(columns.whose, columns.name, columns.limits)
    for whose, name, limits in connection.execute(wanted.order_by(columns.whose, columns.name)):
        found[Subject(whose, name)] = _read(limits)
    return found


def put(connection: Connection, subject: Subject, quotas: Quotas, now_ms: int) -> None:
    """Keep quotas in place of all that the subject had."""
    remove(connection, subject)
    limits = {
        name: limit for name, limit in msgspec.structs.asdict(quotas).items() if limit is not None
    }
    row: dict[str, Any] = {"limits": msgspec.json.encode(limits).decode(), "changed_ms": now_ms}
    connection.execute(insert(_QUOTAS).values(whose=subject.whose, name=subject.name, **row))
    connection.execute(update(_CHANGES).values(number=_CHANGES.c.number + 1))


def remove(connection: Connection, subject: Subject) -> bool:
    """Forget a subject's quotas; whether there were any."""
    columns = _QUOTAS.c
    of = (columns.whose == subject.whose, columns.name == subject.name)
    if connection.execute(delete(_QUOTAS).where(*of)).rowcount == 0:
        return False
    connection.execute(update(_CHANGES).values(number=_CHANGES.c.number + 1))
    return True


def _read(limits: str) -> Quotas:
    """Limits as they are used; what was tampered with lets nobody use more than one of each."""
    try:
        return msgspec.json.decode(limits, type=Quotas)
    except msgspec.MsgspecError:
        return Quotas(**dict.fromkeys(Quotas.__struct_fields__, 1))
