"""How the audit log lies in the database: rows that are only ever added, each chained to the last.

A row's `hash` is SHA-256 over the hash of the row before and the row's own content. Triggers
refuse to change or delete rows; the oldest may be removed together, which leaves a mark. Every
function works on one connection, within its caller's transaction.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)

from opta_lmx.store.schema import Schema

Outcome = Literal["begun", "ok", "refused", "failed"]
"""`begun`: written before something is done; a later row says how it ended."""
OUTCOMES: tuple[Outcome, ...] = ("begun", "ok", "refused", "failed")
RETENTION = "audit.retention"
"""The action of the row that says which rows were removed."""

_FIRST_HASH = "0" * 64
_LAST, _REMOVED = "last", "removed"
_AT_ONCE = 1000
_metadata = MetaData()
_ROWS = Table(
    "audit_rows",
    _metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("who", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(256), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer),
    Column("code", String(64), nullable=False),
    Column("began", Integer),
    Column("hash", String(64), nullable=False),
    Index("audit_rows_at", "at_ms"),
)
_MARKS = Table(
    "audit_marks",
    _metadata,
    Column("name", String(16), primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
)
"""Two rows: the `last` one that was written, and the last one that was `removed`."""


def _refusing(name: str, event: str, words: str, when: str = "") -> str:
    condition = f" WHEN {when}" if when else ""
    return (
        f"CREATE TRIGGER {name} BEFORE {event}{condition} BEGIN SELECT RAISE(ABORT, '{words}'); END"
    )


TRIGGERS = {
    name: _refusing(name, event, words, when)
    for name, event, words, when in (
        ("audit_no_change", "UPDATE ON audit_rows", "rows of the audit log stay as they are", ""),
        (
            # Also stops INSERT OR REPLACE, which deletes without asking a trigger.
            "audit_in_order",
            "INSERT ON audit_rows",
            "rows of the audit log are added behind the last",
            "NEW.seq IS NOT (SELECT seq + 1 FROM audit_marks WHERE name = 'last')",
        ),
        (
            "audit_no_delete",
            "DELETE ON audit_rows",
            "rows of the audit log stay",
            "OLD.seq > (SELECT seq FROM audit_marks WHERE name = 'removed')",
        ),
        (
            "audit_marks_forward",
            "UPDATE ON audit_marks",
            "marks of the audit log only move on, to a row there is, and as a row says",
            (
                "NEW.name IS NOT OLD.name OR NEW.seq <= OLD.seq OR NOT EXISTS (SELECT 1 FROM "
                "audit_rows WHERE seq = NEW.seq AND hash = NEW.hash) OR (NEW.name = 'removed' AND "
                "NOT EXISTS (SELECT 1 FROM audit_rows WHERE seq > NEW.seq AND who = 'server' AND "
                "tenant = '' AND action = 'audit.retention' AND "
                "target = 'rows ' || (OLD.seq + 1) || ' to ' || NEW.seq))"
            ),
        ),
        ("audit_marks_stay", "DELETE ON audit_marks", "marks of the audit log stay", ""),
        ("audit_marks_two", "INSERT ON audit_marks", "the audit log has two marks", ""),
    )
}


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_ROWS, _MARKS])
    marks = [{"name": name, "seq": 0, "hash": _FIRST_HASH} for name in (_LAST, _REMOVED)]
    connection.execute(insert(_MARKS), marks)
    for statement in TRIGGERS.values():
        connection.exec_driver_sql(statement)


def _second_step(connection: Connection) -> None:
    """From here on the mark of what was removed moves only where a row says so."""
    connection.exec_driver_sql("DROP TRIGGER IF EXISTS audit_marks_forward")
    connection.exec_driver_sql(TRIGGERS["audit_marks_forward"])


SCHEMA = Schema("audit", (_first_step, _second_step))
"""The tables of the audit log."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody did or tried.

    `who` is a key's name, `tenant` its tenant. Where that is empty, `who` is `anonymous` (no good
    key was shown), `local` (a command on this machine; `address` is then `uid N`) or `server`.
    `status` is of HTTP, None where nothing was answered; `code` the error's. `began` is the
    sequence number of the row that said it begins.
    """

    tenant: str = ""
    who: str
    address: str = ""
    request_id: str = ""
    action: str
    target: str = ""
    outcome: Outcome
    status: int | None = None
    code: str = ""
    began: int | None = None


class AuditRow(Entry, frozen=True, kw_only=True):
    """One row as it is kept; `at_ms` in UTC milliseconds."""

    seq: int
    at_ms: int
    hash: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows to read: all that are given must hold.

    `after` and `before` are sequence numbers, both exclusive; `since_ms` is a moment. `action`
    may end in `*`.
    """

    after: int | None = None
    before: int | None = None
    since_ms: int | None = None
    who: str | None = None
    action: str | None = None
    outcome: Outcome | None = None
    limit: int = 100


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the whole log has found.

    `rows` were sound, from `first` on; `last` and `hash` are of the last of them. `problem` says
    what is wrong first; None where nothing is.
    """

    rows: int
    first: int
    last: int
    hash: str
    problem: str | None = None


def append(connection: Connection, entry: Entry, now_ms: int) -> int:
    """Add a row; its sequence number."""
    last, previous = _mark(connection, _LAST)
    content = {**msgspec.structs.asdict(entry), "seq": last + 1, "at_ms": now_ms}
    row_hash = _hash(previous, content)
    connection.execute(insert(_ROWS).values(**content, hash=row_hash))
    _move(connection, _LAST, last + 1, row_hash)
    return last + 1


def page(connection: Connection, wanted: Wanted) -> list[AuditRow]:
    """Rows in their order: the first ones behind `after`, or without it the latest."""
    forward = wanted.after is not None
    order = _ROWS.c.seq if forward else _ROWS.c.seq.desc()
    asked = select(_ROWS).where(*_conditions(wanted)).order_by(order).limit(wanted.limit)
    rows = [_read(row) for row in connection.execute(asked).mappings()]
    return rows if forward else rows[::-1]


def remove_before(connection: Connection, before_ms: int, now_ms: int, most: int) -> int:
    """Say in a row that the oldest go, up to the first one of `before_ms` or later; remove them.

    How many were removed; `most` bounds it.
    """
    removed, _ = _mark(connection, _REMOVED)
    last, _ = _mark(connection, _LAST)
    kept = select(func.min(_ROWS.c.seq)).where(_ROWS.c.at_ms >= before_ms)
    end = (connection.scalar(kept) or last + 1) - 1
    end = min(end, removed + most)
    if end <= removed:
        return 0
    found = connection.scalar(select(_ROWS.c.hash).where(_ROWS.c.seq == end))
    if found is None:
        return 0  # Tampered with: verification tells, and nothing more is taken away.
    told = f"rows {removed + 1} to {end}"
    append(connection, Entry(who="server", action=RETENTION, target=told, outcome="ok"), now_ms)
    _move(connection, _REMOVED, end, found)
    connection.execute(delete(_ROWS).where(_ROWS.c.seq <= end))
    return end - removed


def verify(connection: Connection, expected: tuple[int, str] | None = None) -> Verdict:
    """Read every row and compute the chain anew.

    Args:
        connection: to the database.
        expected: sequence number and hash of a row as somebody has noted them elsewhere.
    """
    removed, previous = _mark(connection, _REMOVED)
    seq, last = removed, _mark(connection, _LAST)
    problem = _missing_trigger(connection)
    seen = expected in (None, (0, _FIRST_HASH))
    told = removed <= 0
    for number, row in _numbered(connection):
        wrong = _wrong(number, row, seq + 1, previous)
        if wrong is not None or row is None:
            problem = wrong
            break
        seq, previous = number, row.hash
        seen = seen or (seq, previous) == expected
        told = told or _tells_removed(row, removed)
    problem = problem or _missing(removed, told=told, ended=(seq, previous), last=last)
    if problem is None and not seen:
        assert expected is not None
        problem = _unseen(expected[0], removed)
    return Verdict(rows=seq - removed, first=removed + 1, last=seq, hash=previous, problem=problem)


def _missing(
    removed: int, *, told: bool, ended: tuple[int, str], last: tuple[int, str]
) -> str | None:
    """What is wrong at either end of rows that are sound; None where nothing is.

    Args:
        removed: the row up to which the log was shortened.
        told: a row says so.
        ended: the last row there is, and its hash.
        last: the same as the log's own mark has them.
    """
    if ended != last:
        return f"row {last[0]} was written, and the log ends with row {ended[0]}"
    if not told:
        return f"the rows up to {removed} are gone, and none tells that they were removed"
    return None


def _tells_removed(row: AuditRow, removed: int) -> bool:
    """Whether a row is the one that says that all up to `removed` went."""
    server = (row.who, row.tenant, row.action) == ("server", "", RETENTION)
    return server and row.target.endswith(f" to {removed}")


def _unseen(seq: int, removed: int) -> str:
    if seq <= removed:
        return f"row {seq} was removed with those up to {removed}: what it held cannot be checked"
    return f"row {seq} is not there with the hash that was expected"


def _wrong(number: Any, row: AuditRow | None, due: int, previous: str) -> str | None:
    """What is wrong with a row that should have the number `due`."""
    if number != due:
        return f"row {due} is missing: row {number} comes instead"
    if row is None:
        return f"row {number} holds values of other kinds than were written"
    if _hash(previous, msgspec.structs.asdict(row)) != row.hash:
        return f"row {number} is not as it was written, or not behind the row it was"
    return None


def _numbered(connection: Connection) -> Iterator[tuple[Any, AuditRow | None]]:
    """Every row with its number; None for one that cannot be read."""
    every = select(_ROWS).order_by(_ROWS.c.seq).execution_options(yield_per=_AT_ONCE)
    for row in connection.execute(every).mappings():
        try:
            yield row["seq"], _read(row)
        except msgspec.ValidationError:
            yield row["seq"], None


def _missing_trigger(connection: Connection) -> str | None:
    asked = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    found = {str(row[0]): row[1] for row in connection.exec_driver_sql(asked)}
    changed = sorted(name for name, sql in TRIGGERS.items() if found.get(name) != sql)
    if changed:
        return f"what protects the log was taken away or changed: {', '.join(changed)}"
    return None


def _mark(connection: Connection, name: str) -> tuple[int, str]:
    found = connection.execute(
        select(_MARKS.c.seq, _MARKS.c.hash).where(_MARKS.c.name == name)
    ).one_or_none()
    # Without its marks the log cannot be whole: no row fits behind number -1.
    return (-1, "") if found is None else (found.seq, found.hash)


def _move(connection: Connection, name: str, seq: int, row_hash: str) -> None:
    moved = update(_MARKS).where(_MARKS.c.name == name).values(seq=seq, hash=row_hash)
    connection.execute(moved)


def _hash(previous: str, content: dict[str, Any]) -> str:
    """The hash of a row: every field but the hash itself, in the order of the table."""
    values = [content[column.name] for column in _ROWS.columns if column.name != "hash"]
    return hashlib.sha256(previous.encode() + b"\n" + msgspec.json.encode(values)).hexdigest()


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    columns = _ROWS.c
    found = [
        column == value
        for column, value in ((columns.who, wanted.who), (columns.outcome, wanted.outcome))
        if value is not None
    ]
    if wanted.after is not None:
        found.append(columns.seq > wanted.after)
    if wanted.before is not None:
        found.append(columns.seq < wanted.before)
    if wanted.since_ms is not None:
        found.append(columns.at_ms >= wanted.since_ms)
    if wanted.action is not None:
        beginning, star, _ = wanted.action.partition("*")
        found.append(
            columns.action.startswith(beginning, autoescape=True)
            if star
            else columns.action == beginning
        )
    return found


def _read(row: RowMapping) -> AuditRow:
    # The library names columns by a kind of string that msgspec does not take for one.
    return msgspec.convert({str(name): value for name, value in row.items()}, AuditRow)
