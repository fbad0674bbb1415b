"""Refusals in the audit log: a flood leaves few rows and a sum, which is told within a minute."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.tenancy import audit_rows
from opta_lmx.tenancy.audit import REFUSALS, AuditLog
from opta_lmx.tenancy.audit_rows import Entry, Wanted
from tests.support.asynchronous import in_loop
from tests.support.audit_place import Place, entry
from tests.support.clocks import SteppedClock


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


def stranger(number: int = 1) -> Entry:
    return entry(who="anonymous", tenant="", outcome="refused", address=f"10.0.0.{number}")


async def pass_time(place: Place, seconds: float) -> None:
    assert isinstance(place.clock, SteppedClock)
    await asyncio.sleep(0)  # whoever waits has begun to
    await place.clock.advance(seconds)


async def sums(log: AuditLog) -> list[str]:
    return [row.target for row in await log.page(Wanted(action=REFUSALS))]


@in_loop
async def test_a_flood_of_refusals_leaves_few_rows_and_a_sum(place: Place) -> None:
    log = place.log()
    for number in range(500):
        await log.refused(stranger(number))
    assert len(await log.page(Wanted(limit=1000))) == 20
    await pass_time(place, 61)
    await log.close()
    (told,) = await log.page(Wanted(action=REFUSALS))
    assert (told.action, told.who, told.outcome) == (REFUSALS, "server", "refused")
    assert told.target.startswith("480 more refusals, from ")
    log = place.log()
    for _ in range(10):
        await log.refused(stranger())
    await log.close()
    assert (await sums(log))[-1] == "5 more refusals, from 1 addresses (10.0.0.1: 5)"
    assert (await log.verify()).problem is None


@in_loop
async def test_strangers_do_not_keep_insiders_out_of_the_log(place: Place) -> None:
    log = place.log()
    for number in range(300):
        await log.refused(stranger(number))
    for key in ("bot", "other"):
        for _ in range(7):
            await log.refused(entry(who=key, outcome="refused", address="10.0.0.5"))
    for key in ("bot", "other"):
        assert len(await log.page(Wanted(who=key, limit=1000))) == 5
    await log.close()
    assert await sums(log) == [
        (await sums(log))[0],
        "4 more refusals, from 2 keys (ours/bot: 2, ours/other: 2)",
    ]


@in_loop
async def test_what_could_not_be_told_is_told_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = place.log()
    for _ in range(9):
        await log.refused(stranger())
    tried = threading.Event()
    real = audit_rows.append

    def failing(*arguments: Any) -> int:
        tried.set()
        raise LmxError(ErrorKind.UNAVAILABLE, "no")

    monkeypatch.setattr(audit_rows, "append", failing)
    await pass_time(place, 61)
    assert await asyncio.to_thread(tried.wait, 20)
    monkeypatch.setattr(audit_rows, "append", real)
    for _ in range(3):
        await log.refused(stranger())
    await log.close()
    assert await sums(log) == ["4 more refusals, from 1 addresses (10.0.0.1: 4)"]
