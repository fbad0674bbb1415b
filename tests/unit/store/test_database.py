"""The database room: batched commits, migrations with a copy first, and files that are no good."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store import engine
from opta_lmx.store.database import Database
from opta_lmx.store.schema import Schema
from tests.support.asynchronous import in_loop


def step(statement: str) -> Callable[[Connection], None]:
    def run(connection: Connection) -> None:
        connection.execute(text(statement))

    return run


FIRST = step("CREATE TABLE notes (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE)")
SECOND = step("ALTER TABLE notes ADD COLUMN size INTEGER NOT NULL DEFAULT 7")
BROKEN = step("ALTER TABLE missing ADD COLUMN size INTEGER")
NOTES = Schema("notes", (FIRST,))


def opened(path: Path, *schemas: Schema) -> Database:
    return Database(path, schemas or (NOTES,), SystemClock(), NullTelemetry())


def note(word: str) -> Callable[[Connection], Any]:
    return lambda connection: (
        connection.execute(text("INSERT INTO notes (word) VALUES (:word)"), {"word": word}).rowcount
    )


def copies(folder: Path) -> list[Path]:
    return list(folder.glob("*.before-*"))


def words(connection: Connection) -> list[str]:
    return list(connection.scalars(text("SELECT word FROM notes ORDER BY id")))


@in_loop
async def test_what_was_written_is_read_back_also_after_reopening(tmp_path: Path) -> None:
    database = opened(tmp_path / "lmx.db")
    assert await database.write(note("one")) == 1
    assert await database.read(words) == ["one"]
    await database.close()
    again = opened(tmp_path / "lmx.db")
    assert await again.read(words) == ["one"]
    await again.close()


@in_loop
async def test_one_failing_write_of_a_batch_undoes_nothing_of_the_others(tmp_path: Path) -> None:
    database = opened(tmp_path / "lmx.db")
    gate = threading.Event()

    def hold(_: Connection) -> None:
        assert gate.wait(10)

    first = asyncio.ensure_future(database.write(hold))
    rest = [asyncio.ensure_future(database.write(note(word))) for word in ("a", "b", "b", "c")]
    await asyncio.gather(*[asyncio.ensure_future(database.read(words))])
    gate.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    assert len(failures) == 1
    assert isinstance(failures[0], LmxError)
    assert failures[0].code == "store_unavailable"
    assert await database.read(words) == ["a", "b", "c"]
    await database.close()


@in_loop
async def test_writes_that_wait_share_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    database = opened(path)
    gate = threading.Event()
    blocking = asyncio.ensure_future(database.write(lambda _: gate.wait(10)))
    writes = [asyncio.ensure_future(database.write(note(str(n)))) for n in range(100)]
    before = await database.read(lambda c: c.scalar(text("PRAGMA data_version")))
    gate.set()
    await asyncio.gather(blocking, *writes)
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM notes").fetchone() == (100,)
    other.close()
    assert before is not None
    await database.close()


@in_loop
async def test_a_typed_error_of_a_write_reaches_its_caller(tmp_path: Path) -> None:
    database = opened(tmp_path / "lmx.db")

    def refuse(_: Connection) -> None:
        raise LmxError(ErrorKind.NOT_FOUND, "no such note")

    with pytest.raises(LmxError, match="no such note"):
        await database.write(refuse)
    with pytest.raises(LmxError, match="no such note"):
        await database.read(refuse)
    await database.close()


@in_loop
async def test_a_cancelled_caller_loses_no_write(tmp_path: Path) -> None:
    database = opened(tmp_path / "lmx.db")
    gate = threading.Event()
    blocking = asyncio.ensure_future(database.write(lambda _: gate.wait(10)))
    waiting = asyncio.ensure_future(database.write(note("kept")))
    await database.read(words)
    waiting.cancel()
    gate.set()
    await blocking
    await database.write(note("later"))
    assert await database.read(words) == ["kept", "later"]
    await database.close()


@in_loop
async def test_migrations_go_forward_and_copy_the_file_first(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    database = opened(path)
    await database.write(note("old"))
    await database.close()
    assert not copies(tmp_path), "a new file needs no copy"
    database = opened(path, Schema("notes", (FIRST, SECOND)))
    assert database.failure is None
    assert await database.read(lambda c: c.scalar(text("SELECT size FROM notes"))) == 7
    await database.close()
    copy = sqlite3.connect(tmp_path / "lmx.db.before-notes-2")
    assert copy.execute("SELECT * FROM notes").fetchall() == [(1, "old")]
    copy.close()


@in_loop
async def test_a_failing_migration_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    database = opened(path)
    await database.write(note("old"))
    await database.close()
    broken = opened(path, Schema("notes", (FIRST, SECOND, BROKEN)))
    assert broken.failure is not None
    await broken.close()
    database = opened(path)
    assert database.failure is None
    assert await database.read(words) == ["old"]
    await database.close()


@in_loop
async def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    await opened(path, Schema("notes", (FIRST, SECOND))).close()
    older = opened(path)
    assert older.failure is not None
    assert older.failure.code == "store_schema_newer"
    with pytest.raises(LmxError) as caught:
        await older.write(note("lost"))
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert caught.value.code == "store_unavailable"
    await older.close()


@in_loop
async def test_rooms_have_versions_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    await opened(path).close()
    other = Schema("other", (step("CREATE TABLE other (id INTEGER PRIMARY KEY)"),))
    database = opened(path, NOTES, other)
    assert database.failure is None
    assert await database.read(lambda c: c.scalar(text("SELECT count(*) FROM other"))) == 0
    await database.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "middle"])
@in_loop
async def test_a_damaged_file_is_a_typed_error_and_nothing_worse(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "lmx.db"
    database = opened(path)
    for n in range(200):
        await database.write(note(f"word {n} " + "x" * 200))
    await database.close()
    content = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"not a database at all" * 100)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        half = len(content) // 2
        path.write_bytes(content[:half] + b"\xa5" * 8192 + content[half + 8192 :])
    broken = opened(path)
    assert broken.failure is not None
    assert broken.failure.code == "store_corrupt"
    for call in (broken.read(words), broken.write(note("lost"))):
        with pytest.raises(LmxError) as caught:
            await call
        assert caught.value.code == "store_unavailable"
        assert caught.value.retry_after
    await broken.close()


@in_loop
async def test_a_folder_in_its_place_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "lmx.db").mkdir()
    broken = opened(tmp_path / "lmx.db")
    assert broken.failure is not None
    await broken.close()


@in_loop
async def test_writing_after_the_end_is_a_typed_error(tmp_path: Path) -> None:
    database = opened(tmp_path / "lmx.db")
    await database.close()
    for call in (database.write(note("late")), database.read(words)):
        with pytest.raises(LmxError) as caught:
            await call
        assert caught.value.kind is ErrorKind.UNAVAILABLE


@in_loop
async def test_a_large_file_is_read_through_only_after_an_unclean_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lmx.db"
    database = opened(path)
    for n in range(200):
        await database.write(note(f"word {n} " + "x" * 200))
    await database.close()
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + b"\xa5" * 8192 + content[half + 8192 :])
    monkeypatch.setattr(engine, "_CHECKED_BYTES", 1000)
    engine.check_file(path)
    path.with_name("lmx.db-wal").touch()
    with pytest.raises(sqlite3.DatabaseError):
        engine.check_file(path)
    path.write_bytes(b"not a database at all" * 100)
    path.with_name("lmx.db-wal").unlink(missing_ok=True)
    with pytest.raises(sqlite3.DatabaseError):
        engine.check_file(path)


@in_loop
async def test_the_writer_outlives_a_write_that_breaks_its_transaction(tmp_path: Path) -> None:
    database = opened(tmp_path / "lmx.db")
    with pytest.raises(LmxError):
        await database.write(lambda connection: connection.exec_driver_sql("ROLLBACK"))
    assert await asyncio.wait_for(database.write(note("after")), 10) == 1
    await database.close()


async def all_words(path: Path) -> set[str]:
    database = opened(path)
    assert database.failure is None
    kept = set(await database.read(words))
    await database.close()
    return kept


CHILD = """
import asyncio, sys
from pathlib import Path
from sqlalchemy import text
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store import engine
from opta_lmx.store.database import Database
from opta_lmx.store.schema import Schema

def create(connection):
    connection.execute(
        text("CREATE TABLE notes (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE)")
    )

def note(word):
    return lambda c: c.execute(text("INSERT INTO notes (word) VALUES (:word)"), {"word": word})

async def writer(database, name):
    for n in range(1_000_000):
        word = f"{name}-{n}"
        await database.write(lambda c: note(word)(c).rowcount)
        sys.stdout.write(word + "\\n")
        sys.stdout.flush()

async def main():
    schema = Schema("notes", (create,))
    database = Database(Path(sys.argv[1]), (schema,), SystemClock(), NullTelemetry())
    await asyncio.gather(*[writer(database, name) for name in "abcdefgh"])

asyncio.run(main())
"""


def test_killed_while_writing_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, env=os.environ.copy()
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline() for _ in range(300)]
    child.send_signal(signal.SIGKILL)
    acknowledged += child.stdout.readlines()
    child.wait(10)
    child.stdout.close()
    # The last line may have been cut by the kill; whole lines are promises.
    promised = {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}
    assert len(promised) >= 300
    kept = asyncio.run(all_words(path))
    assert promised <= kept


def test_nobody_else_may_read_what_stands_beside_a_database(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    ends = ("", "-wal", "-shm", "-journal", ".before-notes-1")
    others = tmp_path / "lmx.db.bak"
    for file in (*(tmp_path / f"lmx.db{end}" for end in ends), others):
        file.touch()
        file.chmod(0o664)
    engine.keep_private(path)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {"lmx.db.bak": 0o664} | {f"lmx.db{end}": 0o600 for end in ends}


WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    sys.exit(str(error))
"""


def test_keeping_a_database_private_ends_no_lock_on_it(tmp_path: Path) -> None:
    path = tmp_path / "lmx.db"
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("CREATE TABLE notes (word TEXT)")
        holder.execute("BEGIN IMMEDIATE")
        engine.keep_private(path)
        other = subprocess.run(
            [sys.executable, "-c", WRITE, str(path)], capture_output=True, text=True, check=False
        )
    finally:
        holder.close()
    assert (other.returncode, other.stderr.strip()) == (1, "database is locked")
