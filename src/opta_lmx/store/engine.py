"""The one place that makes a database engine. SQLite in WAL mode; a server may follow here."""

import contextlib
import os
import sqlite3
from glob import escape
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

WRITES = "lmx_writes"
"""Execution option of the writer's connection: its transactions take the write lock at once."""

_BUSY_MS = 5_000
_JOURNAL_BYTES = 64 * 1024**2
_PAGES_AT_ONCE = 2048
_CHECKED_BYTES = 256 * 1024**2
_BESIDE = ("-wal", "-shm", "-journal")
READERS = 2
"""Threads that read; the writer is one besides."""


def make_engine(path: Path) -> Engine:
    """Return an engine on a SQLite file, made if need be; nothing is opened yet.

    Transactions are ours (`BEGIN`, `BEGIN IMMEDIATE` for the writer): the driver's own begin too
    late for savepoints. A commit is on the disk when it returns.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        pool_size=READERS + 1,
        max_overflow=0,
        hide_parameters=True,  # What people said must not stand in a log.
        connect_args={"check_same_thread": False, "isolation_level": None},
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def keep_private(path: Path) -> None:
    """Let nobody but its owner read a database, which is made (empty) if need be.

    Nor what stands beside it: its journal, and copies made of it before. One that is there
    already is not opened: to close it would end the locks that SQLite holds on it in this
    process. Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    beside = (path.with_name(path.name + end) for end in _BESIDE)
    for file in (path, *beside, *path.parent.glob(f"{escape(path.name)}.before-*")):
        # Another user's file, lent to this one's group; or one that SQLite has just removed.
        with contextlib.suppress(PermissionError, FileNotFoundError):
            file.chmod(0o600)


def create_file(path: Path) -> None:
    """Make an empty database that can give space back to the disk: it must be said first."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _prepare(connection: Any, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    for pragma in (
        f"busy_timeout = {_BUSY_MS}",
        "journal_mode = WAL",
        f"journal_size_limit = {_JOURNAL_BYTES}",
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
    keep_private(part)
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


def give_back_pages(connection: Connection) -> bool:
    """Free some unused pages at the end of the file; true while there are more to free."""
    plain = connection.connection.driver_connection
    assert isinstance(plain, sqlite3.Connection)
    before = _unused(connection)
    # Read to its end: each row of this statement frees one page.
    plain.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
    # A file made without this way of shrinking frees none.
    return 0 < _unused(connection) < before


def _unused(connection: Connection) -> int:
    return connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()


def check_file(path: Path) -> None:
    """Look a file over: all of it, unless it is large and was closed in good order.

    Reading takes about a second for each gigabyte; damage that is not met here is met by the
    first call that reads it. Raises sqlite3.DatabaseError.
    """
    left_open = path.with_name(f"{path.name}-wal").exists()
    whole = left_open or path.stat().st_size <= _CHECKED_BYTES
    connection = sqlite3.connect(path)
    try:
        if not whole:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
    finally:
        connection.close()
    if verdict is None or verdict[0] != "ok":
        raise sqlite3.DatabaseError(str(verdict))
