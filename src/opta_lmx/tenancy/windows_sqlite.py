"""Counts in the database: exact over restarts, and over all processes that share its file.

Each `take` is one transaction that looks and counts, and is on the disk when it returns. Times are
UTC: a clock that is set back makes what was taken count longer, by one span at most.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    String,
    Table,
    bindparam,
    case,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.store.database import Database
from opta_lmx.store.schema import Schema
from opta_lmx.tenancy.windows import (
    SWEEP_MS,
    Bucket,
    Level,
    Limit,
    Part,
    Taken,
    Want,
    frees_ms,
    passes,
)

_Result = TypeVar("_Result")
RETRY_S = 5.0
"""When to ask again while the database cannot be used, and how often what waits is tried anew."""

_metadata = MetaData()
_WINDOWS = Table(
    "quota_windows",
    _metadata,
    Column("window", String(256), primary_key=True),
    Column("start_ms", BigInteger, primary_key=True),
    Column("until_ms", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Index("quota_windows_by_end", "until_ms"),
    sqlite_with_rowid=False,
)


def _first_step(connection: Connection) -> None:
    _metadata.create_all(connection, tables=[_WINDOWS])


SCHEMA = Schema("quota_windows", (_first_step,))
"""The tables of this room."""

_new = insert(_WINDOWS)
_UPSERT = _new.on_conflict_do_update(
    index_elements=["window", "start_ms"],
    set_={
        "amount": _WINDOWS.c.amount + _new.excluded.amount,
        "until_ms": func.max(_WINDOWS.c.until_ms, _new.excluded.until_ms),
    },
)
_LESS = (
    update(_WINDOWS)
    .where(_WINDOWS.c.window == bindparam("of"), _WINDOWS.c.start_ms == bindparam("since"))
    .values(
        amount=case(
            (_WINDOWS.c.amount > bindparam("less"), _WINDOWS.c.amount - bindparam("less")),
            else_=0,
        )
    )
)


class _Debt(msgspec.Struct, frozen=True):
    """What is still to be written: counted without asking, at a time, or given back."""

    wants: tuple[Want, ...] = ()
    at_ms: int = 0
    parts: tuple[Part, ...] = ()


class SqliteWindows:
    """Counts in `lmx.db`.

    Args:
        database: with the tables of `SCHEMA`.
        clock: time.
        telemetry: told when what was used cannot be written down.
    """

    def __init__(self, database: Database, clock: Clock, telemetry: Telemetry) -> None:
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        # The loop appends, the writer's thread takes: both are single steps of a deque.
        self._debts: deque[_Debt] = deque()
        self._flushing: asyncio.Future[None] | None = None
        self._swept_ms = 0
        self._closed = False

    async def take(self, wants: Sequence[Want]) -> Taken:
        """See `Windows`. One transaction; what is owed is written first."""
        taken: list[_Debt] = []

        def work(connection: Connection) -> Taken:
            # Read within the transaction: of two processes, who writes later is later.
            now_ms = self._clock.now_ms()
            self._pay(connection, taken)
            self._sweep(connection, now_ms)
            return _take(connection, wants, now_ms)

        return await self._written(work, taken)

    def add(self, wants: Sequence[Want]) -> None:
        """See `Windows`; written before anything else is taken, and soon."""
        self._owe(_Debt(wants=tuple(wants), at_ms=self._clock.now_ms()))

    def give_back(self, parts: Sequence[Part]) -> None:
        """See `Windows`; written before anything else is taken, and soon."""
        self._owe(_Debt(parts=tuple(parts)))

    async def settle(self) -> None:
        """See `Windows`; while the database cannot be written to, what is owed waits."""
        if self._debts or self._flushing is not None:
            await self._settled()

    async def _settled(self) -> bool:
        """Write what is owed, behind all that is being written; whether that could be done."""
        taken: list[_Debt] = []
        try:
            await self._written(lambda connection: self._pay(connection, taken), taken)
        except LmxError as error:
            self._telemetry.log("error", "use not counted yet", code=error.code)
            return False
        return True

    async def levels(self, limits: Sequence[Limit]) -> tuple[Level, ...]:
        """See `Windows`."""
        await self.settle()
        now_ms = self._clock.now_ms()
        try:
            return await self._database.read(lambda link: _levels(link, limits, now_ms))
        except LmxError as error:
            raise _unavailable(error) from None

    def _owe(self, debt: _Debt) -> None:
        self._debts.append(debt)
        # Nothing can be written any more once the database is closed: trying would never end.
        if self._flushing is None and not self._closed:
            self._flushing = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        """Write what is owed, now or as soon as that can be done."""
        try:
            while self._debts:
                if not await self._settled():
                    await self._clock.sleep(RETRY_S)
        finally:
            self._flushing = None

    async def close(self) -> None:
        """Write what is owed, if that can be done; what is owed later is forgotten."""
        self._closed = True
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.wait({self._flushing})
        await self.settle()

    async def _written(self, work: Callable[[Connection], _Result], taken: list[_Debt]) -> _Result:
        try:
            return await self._database.write(work)
        except LmxError as error:
            # None of it was committed: it is owed again, in its order.
            self._debts.extendleft(reversed(taken))
            raise _unavailable(error) from None

    def _pay(self, connection: Connection, taken: list[_Debt]) -> None:
        while self._debts:
            try:
                debt = self._debts.popleft()
            except IndexError:
                return
            taken.append(debt)
            _count(connection, debt.wants, debt.at_ms)
            if debt.parts:
                connection.execute(
                    _LESS,
                    [
                        {"of": part.window, "since": part.start_ms, "less": part.amount}
                        for part in debt.parts
                    ],
                )

    def _sweep(self, connection: Connection, now_ms: int) -> None:
        if abs(now_ms - self._swept_ms) < SWEEP_MS:
            return
        self._swept_ms = now_ms
        connection.execute(delete(_WINDOWS).where(_WINDOWS.c.until_ms <= now_ms))


def _take(connection: Connection, wants: Sequence[Want], now_ms: int) -> Taken:
    """Look at every window, then count in all of them or in none."""
    limits = [want.limit for want in wants]
    before = _levels(connection, limits, now_ms)
    for level in before:
        if level.reset_ms > level.limit.span_ms:
            _mend(connection, level.limit, now_ms)
    refused: Level | None = None
    wait_ms = 0
    for want, level in zip(wants, before, strict=True):
        excess = passes(want, level.used)
        if excess > 0:
            waits_ms = _wait_ms(connection, want.limit, excess, now_ms)
            if refused is None or waits_ms > wait_ms:
                refused, wait_ms = level, waits_ms
    if refused is not None:
        return Taken(_bounded(before), (), refused, wait_ms)
    parts = _count(connection, wants, now_ms)
    after = [
        Level(level.limit, level.used + want.amount, want.limit.span_ms) if want.amount else level
        for want, level in zip(wants, before, strict=True)
    ]
    return Taken(_bounded(after), parts)


def _bounded(levels: Sequence[Level]) -> tuple[Level, ...]:
    """The levels, none of them freed later than a whole span from now."""
    return tuple(
        msgspec.structs.replace(level, reset_ms=min(level.reset_ms, level.limit.span_ms))
        for level in levels
    )


def _levels(connection: Connection, limits: Sequence[Limit], now_ms: int) -> tuple[Level, ...]:
    columns = _WINDOWS.c
    wanted = (
        select(columns.window, func.sum(columns.amount), func.max(columns.until_ms))
        .where(columns.window.in_([limit.window for limit in limits]))
        .where(columns.until_ms > now_ms, columns.amount > 0)
        .group_by(columns.window)
    )
    found = {window: (used, last_ms) for window, used, last_ms in connection.execute(wanted)}
    levels: list[Level] = []
    for limit in limits:
        used, last_ms = found.get(limit.window, (0, now_ms))
        levels.append(Level(limit, used, last_ms - now_ms))
    return tuple(levels)


def _mend(connection: Connection, limit: Limit, now_ms: int) -> None:
    """The clock was set back: what seems to be taken in the future was taken now at the latest."""
    latest_ms = now_ms + limit.span_ms
    columns = _WINDOWS.c
    future = (columns.window == limit.window, columns.until_ms > latest_ms)
    connection.execute(update(_WINDOWS).where(*future).values(until_ms=latest_ms))


def _wait_ms(connection: Connection, limit: Limit, amount: int, now_ms: int) -> int:
    columns = _WINDOWS.c
    wanted = select(columns.until_ms, columns.amount).where(
        columns.window == limit.window, columns.until_ms > now_ms
    )
    buckets = [Bucket(until_ms, held) for until_ms, held in connection.execute(wanted)]
    found = frees_ms(buckets, amount, now_ms)
    return limit.span_ms if found is None else found


def _count(connection: Connection, wants: Sequence[Want], now_ms: int) -> tuple[Part, ...]:
    counted = [want for want in wants if want.amount > 0]
    parts = tuple(
        Part(want.limit.window, want.limit.bucket(now_ms), want.amount) for want in counted
    )
    if counted:
        rows = [
            {**msgspec.structs.asdict(part), "until_ms": now_ms + want.limit.span_ms}
            for part, want in zip(parts, counted, strict=True)
        ]
        connection.execute(_UPSERT, rows)
    return parts


def _unavailable(error: LmxError) -> LmxError:
    """Build the error of who has a quota while nobody can tell what is left of it."""
    return LmxError(
        ErrorKind.UNAVAILABLE,
        "What is left of this key's quotas cannot be told at the moment.",
        code="quota_store_unavailable",
        retry_after=error.retry_after or RETRY_S,
    )
