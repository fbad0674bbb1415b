"""The database as rooms use it: awaitable reads and writes, or one typed error for all of them."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.store.engine import (
    READERS,
    WRITES,
    check_file,
    copy_database,
    create_file,
    give_back_pages,
    keep_private,
    make_engine,
)
from opta_lmx.store.schema import Pending, Schema, is_empty, pending, take
from opta_lmx.store.writer import Writer

_RETRY_S = 30.0
_Result = TypeVar("_Result")


def unavailable(reason: str, code: str = "store_unavailable") -> LmxError:
    """Build the error of everything that needs the database while it cannot be used."""
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"Stored data cannot be reached: {reason}.",
        code=code,
        retry_after=_RETRY_S,
    )


class Database:
    """One file, opened at construction. A file that cannot be used costs only its users.

    Args:
        path: of the SQLite file; its folder is made if need be.
        schemas: the tables of each room.
        clock: time, for the migrations' record.
        telemetry: told when the database cannot be used.

    Attributes:
        path: of the file.
        failure: why nothing can be read or written; None while all is well. Its code is
            `store_corrupt`, `store_schema_newer` or `store_unavailable`.
    """

    def __init__(
        self, path: Path, schemas: tuple[Schema, ...], clock: Clock, telemetry: Telemetry
    ) -> None:
        self.path = path
        self._clock = clock
        self._telemetry = telemetry
        self._engine: Engine | None = None
        self._writer: Writer | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self.failure: LmxError | None = None
        try:
            self._open(schemas)
        except (LmxError, SQLAlchemyError, sqlite3.Error, OSError) as error:
            self._fail(error)

    def _open(self, schemas: tuple[Schema, ...]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keep_private(self.path)
        if self.path.stat().st_size:
            check_file(self.path)
        else:
            create_file(self.path)
        self._engine = make_engine(self.path)
        with self._engine.connect() as connection:
            steps = pending(connection, schemas)
            empty = is_empty(connection)
        if steps:
            if not empty:
                self._back_up(steps)
            self._migrate(self._engine, schemas)
        self._writer = Writer(self._engine)

    def _back_up(self, steps: list[Pending]) -> None:
        """Copy the file aside, named for the first step it has not taken."""
        first = steps[0]
        name = f"{self.path.name}.before-{first.room}-{first.number}"
        copy_database(self.path, self.path.with_name(name))

    def _migrate(self, engine: Engine, schemas: tuple[Schema, ...]) -> None:
        """All steps in one transaction: a failure leaves the database as it was.

        What is missing is looked up anew: another process may have taken a step meanwhile.
        """
        with engine.connect() as plain:
            connection = plain.execution_options(**{WRITES: True})
            with connection.begin():
                for step in pending(connection, schemas):
                    take(connection, step, self._clock.now_ms())

    def _fail(self, error: Exception) -> None:
        if isinstance(error, LmxError):
            self.failure = error
        elif _is_damage(error):
            self.failure = unavailable("the database file is damaged", "store_corrupt")
        else:
            self.failure = unavailable("the database cannot be opened")
        self._telemetry.log("error", "database unusable", code=self.failure.code, reason=str(error))

    async def write(self, work: Callable[[Connection], _Result]) -> _Result:
        """Run `work` in a transaction on the writer's thread; returns when it is committed.

        Raises:
            LmxError: UNAVAILABLE when the database cannot be used; and what `work` raises.
        """
        self.check()
        assert self._writer is not None
        try:
            future = self._writer.submit(work)
        except RuntimeError:
            raise _stopping() from None
        try:
            # A caller that is cancelled must not take back what may be committed already.
            return await asyncio.shield(asyncio.wrap_future(future))
        except SQLAlchemyError as error:
            raise self._trouble(error) from None

    async def read(self, work: Callable[[Connection], _Result]) -> _Result:
        """Run `work` on a reader's thread, on one consistent view.

        Raises:
            LmxError: UNAVAILABLE when the database cannot be used; and what `work` raises.
        """
        self.check()
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._readers, self._reading, work)
        except RuntimeError:
            raise _stopping() from None
        try:
            return await future
        except SQLAlchemyError as error:
            raise self._trouble(error) from None

    def read_now(self, work: Callable[[Connection], _Result]) -> _Result:
        """As `read`, on the calling thread: for what must be known before a loop runs."""
        self.check()
        try:
            return self._reading(work)
        except SQLAlchemyError as error:
            raise self._trouble(error) from None

    async def shrink(self) -> None:
        """Give space that nothing uses back to the disk, in steps between other writes."""
        while await self.write(give_back_pages):
            pass

    def _reading(self, work: Callable[[Connection], _Result]) -> _Result:
        assert self._engine is not None
        with self._engine.connect() as connection:
            return work(connection)

    def check(self) -> None:
        """Raise UNAVAILABLE `store_unavailable` while the database cannot be used."""
        if self.failure is not None:
            # Callers are told one code; which of the causes it was is the operator's affair.
            raise unavailable("the server's log says why")

    def _trouble(self, error: SQLAlchemyError) -> LmxError:
        self._telemetry.log("error", "database error", reason=str(error))
        return unavailable("the database reported an error")

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._readers.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()


def _stopping() -> LmxError:
    return unavailable("the server is stopping")


def _is_damage(error: Exception) -> bool:
    cause = getattr(error, "orig", error)
    return isinstance(cause, sqlite3.DatabaseError) and not isinstance(
        cause, sqlite3.OperationalError
    )
