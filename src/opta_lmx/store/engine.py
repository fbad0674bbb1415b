"""The one place that makes a database engine. SQLite in WAL mode; a server may follow here."""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

WRITES = "lmx_writes"
"""Execution option of the writer's connection: its transactions take the write lock at once."""

_BUSY_MS = 5_000
_READERS = 2


def make_engine(path: Path) -> Engine:
    """Return an engine on a SQLite file, made if need be; nothing is opened yet.

    Transactions are ours (`BEGIN`, `BEGIN IMMEDIATE` for the writer): the driver's own begin too
    late for savepoints. A commit is on the disk when it returns.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        pool_size=_READERS + 1,
        max_overflow=0,
        connect_args={"check_same_thread": False, "isolation_level": None},
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    for pragma in (
        f"busy_timeout = {_BUSY_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def copy_database(source: Path, target: Path) -> None:
    """Write a consistent copy of a SQLite file; `target` appears whole or not at all."""
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    reading = sqlite3.connect(source)
    writing = sqlite3.connect(part)
    try:
        reading.backup(writing)
    finally:
        reading.close()
        writing.close()
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def check_file(path: Path) -> None:
    """Look the whole file over. Raises sqlite3.DatabaseError when it is damaged."""
    connection = sqlite3.connect(path)
    try:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
    finally:
        connection.close()
    if verdict is None or verdict[0] != "ok":
        raise sqlite3.DatabaseError(str(verdict))
