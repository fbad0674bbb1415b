"""Windows against a plain log of all that was taken: never too much, never long too little."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database, unavailable
from opta_lmx.tenancy.windows import (
    BUCKET_MS,
    Limit,
    MemoryWindows,
    Part,
    Span,
    Want,
    Windows,
)
from opta_lmx.tenancy.windows_sqlite import SCHEMA, SqliteWindows
from tests.support.clocks import HandClock

BEGAN_S = 1_900_000_000.0
_numbers = itertools.count()


class Log:
    """What a window must hold, by the list of all that was taken."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.taken: list[tuple[int, int]] = []
        self._latest: dict[int, int] = {}

    def take(self, now_ms: int, amount: int) -> None:
        self.taken.append((now_ms, amount))
        self._latest[now_ms // BUCKET_MS[self.limit.span]] = now_ms

    def used(self, now_ms: int) -> int:
        """Events of one bucket count until the last of them has left."""
        return sum(amount for at, amount in self.taken if self.leaves(at) > now_ms)

    def leaves(self, at: int) -> int:
        """When that goes which was taken then: with the last of its bucket, given back or not."""
        return self._latest[at // BUCKET_MS[self.limit.span]] + self.limit.span_ms

    def truly(self, now_ms: int) -> int:
        """What was taken in the span before now, to the millisecond."""
        return sum(amount for at, amount in self.taken if at + self.limit.span_ms > now_ms)

    def widely(self, now_ms: int) -> int:
        """The same of a span and one bucket."""
        span_ms = self.limit.span_ms + BUCKET_MS[self.limit.span]
        return sum(amount for at, amount in self.taken if at + span_ms > now_ms)


def limit(span: Span, most: int, owner: str) -> Limit:
    return Limit("key", owner, "requests", span, most)


MOVES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 400, 999, 1000, 7_000, 30_000, 59_999, 60_000, 61_000]),
        st.integers(1, 7),
        st.booleans(),
    ),
    max_size=40,
)


async def hold_against_a_log(windows: Windows, clock: HandClock, moves: Any) -> None:
    owner = f"o{next(_numbers)}"
    logs = [Log(limit("minute", 10, owner)), Log(limit("day", 40, owner))]
    kept: list[tuple[tuple[Part, ...], int, int]] = []
    for wait_ms, amount, gives_back in moves:
        clock.now += wait_ms / 1000
        now_ms = clock.now_ms()
        if gives_back and kept:
            parts, at_ms, given = kept.pop()
            windows.give_back(parts)
            for log in logs:
                if log.leaves(at_ms) > now_ms:
                    log.taken.remove((at_ms, given))
        wants = [Want(log.limit, amount) for log in logs]
        fits = all(log.used(now_ms) + amount <= log.limit.most for log in logs)
        taken = await windows.take(wants)
        assert (taken.refused is None) == fits
        if fits:
            kept.append((taken.parts, now_ms, amount))
            for log in logs:
                log.take(now_ms, amount)
        else:
            assert any(log.widely(now_ms) + amount > log.limit.most for log in logs)
            assert taken.wait_ms > 0
        for log, level in zip(logs, taken.levels, strict=True):
            assert level.used == log.used(now_ms)
            assert log.truly(now_ms) <= level.used <= log.limit.most


@settings(max_examples=150, deadline=None)
@given(MOVES)
def test_memory_holds_what_a_log_holds(moves: Any) -> None:
    # Ticks of whole ms: a float may fall between two.
    clock = HandClock(1024.0)

    class Ticks(HandClock):
        def monotonic(self) -> float:
            return (clock.now_ms() + 0.5) / 1000

    asyncio.run(hold_against_a_log(MemoryWindows(Ticks()), clock, moves))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("home") / "lmx.db"
    found = Database(path, (SCHEMA,), HandClock(BEGAN_S), NullTelemetry())
    yield found
    found._close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moves=MOVES)
def test_the_database_holds_what_a_log_holds(database: Database, moves: Any) -> None:
    clock = HandClock(BEGAN_S + next(_numbers) * 100_000)
    windows = SqliteWindows(database, clock, NullTelemetry())
    asyncio.run(hold_against_a_log(windows, clock, moves))


Make = Callable[[HandClock], Windows]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    opened: list[Database] = []

    def made(clock: HandClock) -> Windows:
        if request.param == "memory":
            return MemoryWindows(clock)
        opened.append(Database(tmp_path / "lmx.db", (SCHEMA,), clock, NullTelemetry()))
        return SqliteWindows(opened[-1], clock, NullTelemetry())

    yield made
    for one in opened:
        one._close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def test_all_windows_count_or_none(make: Make) -> None:
    async def work() -> None:
        windows = make(HandClock(BEGAN_S))
        wide, narrow = limit("minute", 100, "wide"), limit("day", 3, "narrow")
        taken = await windows.take([Want(wide, 5), Want(narrow, 4)])
        assert taken.refused is not None
        assert taken.refused.limit == narrow
        assert [level.used for level in await windows.levels([wide, narrow])] == [0, 0]
        assert (await windows.take([Want(wide, 5), Want(narrow, 3)])).refused is None
        assert [level.remaining for level in await windows.levels([wide, narrow])] == [95, 0]

    run(work)


def test_the_wait_is_enough_and_no_longer(make: Make) -> None:
    async def work() -> None:
        clock = HandClock(BEGAN_S)
        windows, of = make(clock), limit("minute", 10, "o")
        for moment_s, amount in ((0.25, 4), (0.5, 2), (20.0, 4)):
            clock.now = BEGAN_S + moment_s
            assert (await windows.take([Want(of, amount)])).refused is None
        clock.now = BEGAN_S + 30
        refused = await windows.take([Want(of, 7)])
        # The first two share a bucket and leave with the later of them; the third is needed, too.
        assert refused.wait_ms == 50_000
        assert (await windows.take([Want(of, 6)])).wait_ms == 30_500
        clock.now = BEGAN_S + 60.4375
        assert (await windows.take([Want(of, 6)])).refused is not None
        clock.now = BEGAN_S + 60.5
        assert (await windows.take([Want(of, 6)])).refused is None

    run(work)


def test_nothing_asked_for_is_refused_where_nothing_is_left(make: Make) -> None:
    async def work() -> None:
        windows, of = make(HandClock(BEGAN_S)), limit("minute", 10, "o")
        assert (await windows.take([Want(of, 0)])).parts == ()
        windows.add([Want(of, 9)])
        assert (await windows.take([Want(of, 0)])).refused is None
        windows.add([Want(of, 30)])
        taken = await windows.take([Want(of, 0)])
        assert taken.refused is not None
        assert (taken.levels[0].used, taken.levels[0].remaining) == (39, 0)

    run(work)


def test_what_is_given_back_is_free_for_the_next(make: Make) -> None:
    async def work() -> None:
        clock = HandClock(BEGAN_S)
        windows, of = make(clock), limit("minute", 10, "o")
        first = await windows.take([Want(of, 10)])
        windows.give_back(first.parts)
        second = await windows.take([Want(of, 10)])
        assert second.refused is None
        clock.now += 61
        third = await windows.take([Want(of, 10)])
        assert third.refused is None
        # What has left its window is nothing that could be given back.
        windows.give_back(second.parts)
        assert (await windows.take([Want(of, 1)])).refused is not None

    run(work)


def test_thirty_two_at_once_get_no_more_than_there_is(make: Make) -> None:
    async def work() -> None:
        windows = make(HandClock(BEGAN_S))
        wants = [Want(limit("minute", 50, "k"), 1), Want(limit("day", 41, "t"), 1)]
        taken = await asyncio.gather(*(windows.take(wants) for _ in range(3 * 32)))
        assert sum(one.refused is None for one in taken) == 41

    run(work)


def test_old_buckets_are_swept(tmp_path: Path) -> None:
    async def work() -> None:
        clock = HandClock(BEGAN_S)
        database = Database(tmp_path / "lmx.db", (SCHEMA,), clock, NullTelemetry())
        windows = SqliteWindows(database, clock, NullTelemetry())
        of = limit("minute", 10**6, "o")
        most = 0
        for _ in range(200):
            clock.now += 5
            await windows.take([Want(of, 1)])
            rows = await database.read(
                lambda link: link.exec_driver_sql("SELECT count(*) FROM quota_windows").scalar_one()
            )
            most = max(most, rows)
        assert 12 <= most <= 26
        await database.close()

    run(work)


def test_memory_forgets_who_is_idle() -> None:
    async def work() -> None:
        clock = HandClock(BEGAN_S)
        windows = MemoryWindows(clock)
        for number in range(100):
            await windows.take([Want(limit("minute", 5, f"o{number}"), 1)])
        assert len(windows) == 100
        clock.now += 61
        await windows.take([Want(limit("minute", 5, "o"), 1)])
        assert len(windows) == 1

    run(work)


@pytest.mark.parametrize("back_s", [0.001, 5, 3600, 400 * 86_400])
def test_a_clock_that_is_set_back_frees_nothing_early_and_locks_nobody_out(
    tmp_path: Path, back_s: float
) -> None:
    async def work() -> None:
        clock = HandClock(BEGAN_S)
        database = Database(tmp_path / "lmx.db", (SCHEMA,), clock, NullTelemetry())
        windows = SqliteWindows(database, clock, NullTelemetry())
        of = limit("minute", 10, "o")
        first = await windows.take([Want(of, 10)])
        clock.now -= back_s
        refused = await windows.take([Want(of, 1)])
        assert refused.refused is not None
        assert 0 < refused.wait_ms <= 60_000
        assert refused.levels[0].reset_ms <= 60_000
        clock.now += 59.9
        assert (await windows.take([Want(of, 1)])).refused is not None
        clock.now += 0.2
        assert (await windows.take([Want(of, 10)])).refused is None
        windows.give_back(first.parts)
        await windows.settle()
        await database.close()

    run(work)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    clock = HandClock(BEGAN_S)

    async def once(amount: int) -> int:
        database = Database(tmp_path / "lmx.db", (SCHEMA,), clock, NullTelemetry())
        windows = SqliteWindows(database, clock, NullTelemetry())
        of = limit("day", 10, "o")
        windows.add([Want(of, amount)])
        await windows.settle()
        (level,) = await windows.levels([of])
        await database.close()
        return level.used

    assert [asyncio.run(once(amount)) for amount in (3, 4, 20)] == [3, 7, 27]


def test_what_could_not_be_written_is_owed(tmp_path: Path) -> None:
    async def work() -> None:
        clock = HandClock(BEGAN_S)
        database = Database(tmp_path / "lmx.db", (SCHEMA,), clock, NullTelemetry())
        windows = SqliteWindows(database, clock, NullTelemetry())
        of = limit("minute", 10, "o")
        database.failure = unavailable("the disk is full")
        windows.add([Want(of, 8)])
        await windows.settle()
        with pytest.raises(LmxError) as refused:
            await windows.take([Want(of, 1)])
        assert refused.value.code == "quota_store_unavailable"
        database.failure = None
        taken = await windows.take([Want(of, 3)])
        assert taken.refused is not None
        assert taken.levels[0].used == 8
        await windows.close()
        await database.close()

    run(work)
