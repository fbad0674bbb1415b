"""How keys lie in the database: whose they are and a digest of each, never a secret.

Every function works on one connection, within its caller's transaction.
"""

from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    insert,
    or_,
    select,
    text,
    update,
)

from opta_lmx.core.principal import Budgets, Lane, Principal, Scope
from opta_lmx.store.schema import Schema

State = Literal["active", "grace", "replaced", "expired", "revoked"]
"""`grace`: replaced by another secret, and good until the given moment."""

_LIVING = text("revoked_ms IS NULL AND replaced_ms IS NULL")
_metadata = MetaData()
_KEYS = Table(
    "api_keys",
    _metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("scopes", String(256), nullable=False),
    Column("lane", String(16), nullable=False),
    Column("weight", Float, nullable=False),
    Column("max_running", BigInteger),
    Column("prompt_tokens", BigInteger),
    Column("prompt_tokens_per_minute", BigInteger),
    Column("max_tokens", BigInteger),
    Column("kv_bytes", BigInteger),
    Column("models", Text),
    Column("note", String(256), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("replaced_ms", BigInteger),
    Column("replaced_by", String(16)),
    Index(
        "api_keys_living_names",
        "name",
        unique=True,
        sqlite_where=_LIVING,
        postgresql_where=_LIVING,
    ),
)
_CHANGES = Table(
    "api_key_changes",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
)
"""One row: how often keys were changed, by whatever process."""
_SCOPES = frozenset(scope.value for scope in Scope)


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_KEYS, _CHANGES])
    connection.execute(insert(_CHANGES).values(id=1, number=0))


SCHEMA = Schema("tenancy", (_first_step,))
"""The tables of this room."""


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One key as it is kept.

    `hash` is its digest; all moments are UTC milliseconds. `replaced_ms` is when it ends
    because another was made for the same owner, whose id is `replaced_by`.
    """

    id: str
    hash: str
    owner: Principal
    note: str = ""
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    replaced_ms: int | None = None
    replaced_by: str | None = None

    @property
    def ends_ms(self) -> int | None:
        """When it ends by itself; None for never."""
        ends = [at for at in (self.expires_ms, self.replaced_ms) if at is not None]
        return min(ends, default=None)

    def state(self, now_ms: int) -> State:
        """What has become of it; only `active` and `grace` open the door."""
        if self.revoked_ms is not None:
            return "revoked"
        if self.replaced_ms is not None and self.replaced_ms <= now_ms:
            return "replaced"
        if self.expires_ms is not None and self.expires_ms <= now_ms:
            return "expired"
        return "active" if self.replaced_ms is None else "grace"

    def in_words(self) -> str:
        """Which key it is and what it is for, for people to read."""
        scopes = " ".join(sorted(self.owner.scopes))
        return f"{self.owner.key} ({self.id}) of {self.owner.tenant}, for {scopes}"

    def opens(self, now_ms: int) -> bool:
        """Whether it opens the door."""
        return self.state(now_ms) in ("active", "grace")


class Found(msgspec.Struct, frozen=True):
    """The keys as of a number of changes."""

    number: int
    rows: tuple[KeyRow, ...]


def changes(connection: Connection) -> int:
    """How often keys were changed; 0 means that there never was one."""
    return connection.scalar(select(_CHANGES.c.number)) or 0


def changed(connection: Connection, seen: int | None, now_ms: int) -> Found | None:
    """The keys that are not over; None where nothing has changed since `seen`."""
    number = changes(connection)
    return None if number == seen else Found(number, tuple(living(connection, now_ms)))


def living(connection: Connection, now_ms: int) -> list[KeyRow]:
    """Keys that are neither revoked nor replaced by now, the oldest first."""
    good = (_KEYS.c.revoked_ms.is_(None), _not_replaced(now_ms))
    return _rows(connection, select(_KEYS).where(*good))


def every(connection: Connection) -> list[KeyRow]:
    """All keys there ever were, the oldest first."""
    return _rows(connection, select(_KEYS))


def by_id(connection: Connection, key_id: str) -> KeyRow | None:
    """The key of this id."""
    return next(iter(_rows(connection, select(_KEYS).where(_KEYS.c.id == key_id))), None)


def by_name(connection: Connection, name: str) -> KeyRow | None:
    """The one of this name that is neither revoked nor replaced."""
    columns = _KEYS.c
    current = (columns.revoked_ms.is_(None), columns.replaced_ms.is_(None))
    wanted = select(_KEYS).where(columns.name == name, *current)
    return next(iter(_rows(connection, wanted)), None)


def add(connection: Connection, row: KeyRow) -> None:
    """Keep a new key, whose name no living one has."""
    connection.execute(insert(_KEYS).values(**_columns(row)))
    _count(connection)


def replace(connection: Connection, old: KeyRow, new: KeyRow, until_ms: int) -> None:
    """Keep a new key in the place of one that ends at `until_ms`."""
    ending = {"replaced_ms": until_ms, "replaced_by": new.id}
    connection.execute(update(_KEYS).where(_KEYS.c.id == old.id).values(**ending))
    add(connection, new)


def revoke(connection: Connection, row: KeyRow, now_ms: int) -> None:
    """End a key; where it is its owner's present one, those it has replaced with it."""
    columns = _KEYS.c
    which = columns.id == row.id if row.replaced_ms is not None else columns.name == row.owner.key
    good = (columns.revoked_ms.is_(None), _not_replaced(now_ms))
    connection.execute(update(_KEYS).where(which, *good).values(revoked_ms=now_ms))
    _count(connection)


def _not_replaced(now_ms: int) -> ColumnElement[bool]:
    return or_(_KEYS.c.replaced_ms.is_(None), _KEYS.c.replaced_ms > now_ms)


def _count(connection: Connection) -> None:
    connection.execute(update(_CHANGES).values(number=_CHANGES.c.number + 1))


def _rows(connection: Connection, wanted: Any) -> list[KeyRow]:
    columns = _KEYS.c
    # Of two made in one millisecond the present key is the later.
    order = (columns.created_ms, columns.replaced_ms.is_(None), columns.id)
    ordered = wanted.order_by(*order)
    read = [_read(row) for row in connection.execute(ordered).mappings()]
    return [row for row in read if row is not None]


def _read(row: RowMapping) -> KeyRow | None:
    """A row as it is used; None for one that was tampered with: it lets nobody in."""
    # The library names columns by a kind of string that msgspec does not take for one.
    fields = {str(name): value for name, value in row.items()}
    try:
        owner = {
            "tenant": fields["tenant"],
            "key": fields["name"],
            "lane": Lane[fields["lane"].upper()].value,
            "weight": fields["weight"],
            "max_running": fields["max_running"],
            "budgets": {name: fields[name] for name in Budgets.__struct_fields__},
            # One that a later version knows is no reason to shut its owner out.
            "scopes": [word for word in fields["scopes"].split() if word in _SCOPES],
            "models": None if fields["models"] is None else msgspec.json.decode(fields["models"]),
        }
        found = msgspec.convert({**fields, "owner": owner}, KeyRow)
    except (msgspec.MsgspecError, KeyError, AttributeError):
        return None
    return found if found.owner.scopes else None


def _columns(row: KeyRow) -> dict[str, Any]:
    owner = row.owner
    kept = msgspec.structs.asdict(row)
    del kept["owner"]
    return {
        **kept,
        "name": owner.key,
        "tenant": owner.tenant,
        "scopes": " ".join(scope for scope in Scope if scope in owner.scopes),
        "lane": owner.lane.name.lower(),
        "weight": owner.weight,
        "max_running": owner.max_running,
        **msgspec.structs.asdict(owner.budgets),
        "models": None if owner.models is None else msgspec.json.encode(owner.models).decode(),
    }
