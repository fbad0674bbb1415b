"""The ledger: all that was counted is found again, on the right day, and CSV stays text."""

import asyncio
import csv
import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database, unavailable
from opta_lmx.tenancy.usage import Ledger, query_of
from opta_lmx.tenancy.usage_csv import written
from opta_lmx.tenancy.usage_rows import COUNTS, SCHEMA, Counts, Query
from tests.support.clocks import HandClock, SteppedClock

NOON_S = 1_899_979_200.0
"""2030-03-17T12:00:00Z."""
DAY_S = 86_400
BOT, OTHER = Principal(tenant="fleet", key="bot"), Principal(tenant="lab", key="other")


class Bench:
    """One ledger on one database."""

    def __init__(self, path: Path, days: int = 400) -> None:
        self.clock = SteppedClock(NOON_S)
        self.database = Database(path / "lmx.db", (SCHEMA,), self.clock, NullTelemetry())
        self.ledger = Ledger(self.database, self.clock, NullTelemetry(), days)

    async def close(self) -> None:
        await self.ledger.close()
        await self.database.close()


def run(path: Path, work: Callable[[Bench], Awaitable[None]], days: int = 400) -> None:
    async def main() -> None:
        bench = Bench(path, days)
        try:
            await work(bench)
        finally:
            await bench.close()

    asyncio.run(main())


def test_calls_are_summed_by_day_and_owner_and_model(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        ledger = bench.ledger
        for _ in range(3):
            ledger.record(BOT, "m", Counts(1, 0, 10, 4, 5, 2))
        ledger.record(BOT, "n", Counts(1, 1))
        ledger.record(OTHER, "m", Counts(1, 0, 1, 0, 1, 0))
        bench.clock.now += DAY_S
        ledger.record(BOT, "m", Counts(1, 0, 7, 0, 0, 0))
        rows = await ledger.report(Query())
        assert [tuple(row.values()) for row in rows] == [
            ("2030-03-17", "fleet", "bot", "m", 3, 0, 30, 12, 15, 6),
            ("2030-03-17", "fleet", "bot", "n", 1, 1, 0, 0, 0, 0),
            ("2030-03-17", "lab", "other", "m", 1, 0, 1, 0, 1, 0),
            ("2030-03-18", "fleet", "bot", "m", 1, 0, 7, 0, 0, 0),
        ]
        found = await ledger.report(query_of({"to": "2030-03-17", "group_by": "model"}))
        assert [(row["model"], row["requests"]) for row in found] == [("m", 4), ("n", 1)]
        found = await ledger.report(query_of({"from": "2030-03-18", "group_by": "tenant"}))
        assert [tuple(row.values())[:3] for row in found] == [("fleet", 1, 0)]
        assert await ledger.report(query_of({"tenant": "lab", "key": "bot"})) == []

    run(tmp_path, work)


def test_within_a_second_it_is_on_the_disk(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.ledger.record(BOT, "m", Counts(1, 0, 10, 4, 5, 2))
        await asyncio.sleep(0)
        flushing = bench.ledger._flushing
        assert flushing is not None
        await bench.clock.advance(1.0)
        await flushing
        other = Bench(tmp_path)
        assert [row["requests"] for row in await other.ledger.report(Query())] == [1]
        await other.close()

    run(tmp_path, work)


def test_the_end_of_the_server_writes_the_rest(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.ledger.record(BOT, "m", Counts(1))

    async def look(bench: Bench) -> None:
        assert [row["requests"] for row in await bench.ledger.report(Query())] == [1]

    run(tmp_path, work)
    run(tmp_path, look)


def test_what_cannot_be_written_waits(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        bench.ledger.record(BOT, "m", Counts(1))
        bench.database.failure = unavailable("the disk is full")
        await bench.ledger.flush()
        bench.ledger.record(BOT, "m", Counts(1))
        with pytest.raises(LmxError):
            await bench.ledger.report(Query())
        bench.database.failure = None
        assert [row["requests"] for row in await bench.ledger.report(Query())] == [2]

    run(tmp_path, work)


def test_old_days_are_forgotten(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        for _ in range(5):
            bench.ledger.record(BOT, "m", Counts(1))
            await bench.ledger.flush()
            bench.clock.now += DAY_S
        rows = await bench.ledger.report(Query())
        assert [row["day"] for row in rows] == ["2030-03-19", "2030-03-20", "2030-03-21"]

    run(tmp_path, work, days=2)


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "20300317"}, "from"),
        ({"to": "2030-02-30"}, "to"),
        ({"from": "2030-03-18", "to": "2030-03-17"}, "to"),
        ({"group_by": "day,day"}, "group_by"),
        ({"group_by": "hour"}, "group_by"),
        ({"group_by": ""}, "group_by"),
        ({"model": ""}, "model"),
        ({"key": "x" * 513}, "key"),
    ],
)
def test_a_query_nobody_can_answer_is_refused(words: dict[str, str], param: str) -> None:
    with pytest.raises(LmxError) as refused:
        query_of(words)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.INVALID_REQUEST, param)


def test_a_report_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opta_lmx.tenancy.usage.MAX_ROWS", 3)

    async def work(bench: Bench) -> None:
        for number in range(4):
            bench.ledger.record(BOT, f"m{number}", Counts(1))
        with pytest.raises(LmxError) as refused:
            await bench.ledger.report(Query())
        assert refused.value.code == "too_many_rows"
        assert len(await bench.ledger.report(Query(group_by=("key",)))) == 1

    run(tmp_path, work)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_no_cell_is_a_formula_and_none_is_lost(texts: list[str]) -> None:
    rows = [{"model": text, **dict.fromkeys(COUNTS, 1)} for text in texts]
    read = list(csv.reader(io.StringIO(written(["model", *COUNTS], rows), newline="")))
    assert read[0] == ["model", *COUNTS]
    for text, cells in zip(texts, read[1:], strict=True):
        assert cells[0] in (text, f"'{text}")
        assert not cells[0].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\uff1d1"])
def test_formulas_are_quoted(text: str) -> None:
    line = written(["model"], [{"model": text}]).split("\r\n", 1)[1]
    assert next(csv.reader(io.StringIO(line, newline="")))[0] == f"'{text}"


def test_the_day_is_that_of_utc(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        for second in (-1, 0):
            bench.clock.now = NOON_S + DAY_S / 2 + second
            bench.ledger.record(BOT, "m", Counts(1))
        rows = await bench.ledger.report(Query(group_by=("day",)))
        assert [row["day"] for row in rows] == ["2030-03-17", "2030-03-18"]

    assert HandClock(NOON_S).now_ms() % (DAY_S * 1000) == DAY_S * 500
    run(tmp_path, work)
