"""The audit log on its own: it only grows, its oldest rows go together, and tampering is found."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database
from opta_lmx.store.schema import Schema
from opta_lmx.tenancy import audit_rows
from opta_lmx.tenancy.audit import MAX_TARGET, AuditLog, one_line
from opta_lmx.tenancy.audit_rows import RETENTION, SCHEMA, TRIGGERS, Wanted
from tests.support.asynchronous import in_loop
from tests.support.audit_place import SECRET, Place, entry

DAY_S = 86_400.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


async def filled(place: Place, rows: int = 5) -> AuditLog:
    log = place.log()
    for number in range(rows):
        await log.append(entry(target=f"m{number}", status=200))
    return log


@in_loop
async def test_rows_are_read_back_in_order(place: Place) -> None:
    log = await filled(place)
    assert await log.append(entry("keys.create", who="local", tenant="", outcome="begun")) == 6
    assert await log.append(entry("keys.create", outcome="failed", code="x", began=6)) == 7
    rows = await log.page(Wanted())
    assert [row.seq for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert rows[0].at_ms == 1_900_000_000_000
    assert (rows[6].began, rows[6].code, rows[6].status) == (6, "x", None)
    assert len({row.hash for row in rows}) == 7

    async def numbers(**wanted: Any) -> list[int]:
        return [row.seq for row in await log.page(Wanted(**wanted))]

    assert await numbers(limit=2) == [6, 7]
    assert await numbers(after=2, limit=2) == [3, 4]
    assert await numbers(before=3, limit=2) == [1, 2]
    assert await numbers(after=2, before=4) == [3]
    assert await numbers(who="local") == [6]
    assert await numbers(action="keys.*") == [6, 7]
    assert await numbers(action="keys.") == []
    assert await numbers(action="models.load", after=0) == [1, 2, 3, 4, 5]
    assert await numbers(action="_odels.*") == []
    assert await numbers(outcome="failed") == [7]
    assert await numbers(since_ms=1_900_000_000_001) == []


@in_loop
async def test_the_chain_holds_over_processes_and_restarts(place: Place) -> None:
    first, second = place.log(), place.log()
    for number in range(6):
        await (first, second)[number % 2].append(entry())
    verdict = await second.verify()
    assert (verdict.rows, verdict.first, verdict.last, verdict.problem) == (6, 1, 6, None)
    again = await place.log().verify((verdict.last, verdict.hash))
    assert again == verdict
    wrong = await first.verify((verdict.last, "0" * 64))
    assert "row 6 is not there with the hash" in str(wrong.problem)
    assert (await place.log().verify((0, "0" * 64))).problem is None


def test_many_writers_make_one_chain(place: Place) -> None:
    logs = [place.log() for _ in range(3)]

    def write(log: AuditLog) -> None:
        async def all_of_it() -> None:
            await asyncio.gather(*(log.append(entry()) for _ in range(40)))

        asyncio.run(all_of_it())

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = asyncio.run(logs[0].verify())
    assert (verdict.rows, verdict.problem) == (120, None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_rows SET target = 'x' WHERE seq = 2",
        "UPDATE OR REPLACE audit_rows SET seq = 3 WHERE seq = 2",
        "DELETE FROM audit_rows WHERE seq = 5",
        "DELETE FROM audit_rows",
        "INSERT OR REPLACE INTO audit_rows SELECT * FROM audit_rows WHERE seq = 2",
        (
            "INSERT INTO audit_rows SELECT 9, at_ms, tenant, who, address, request_id, action,"
            " target, outcome, status, code, began, hash FROM audit_rows WHERE seq = 2"
        ),
        (
            "INSERT INTO audit_rows SELECT NULL, at_ms, tenant, who, address, request_id, action,"
            " target, outcome, status, code, began, hash FROM audit_rows WHERE seq = 2"
        ),
        "DELETE FROM audit_marks",
        "UPDATE audit_marks SET seq = 0",
        "UPDATE audit_marks SET seq = 3 WHERE name = 'removed'",
        "UPDATE audit_marks SET seq = 99",
        "UPDATE audit_marks SET name = 'removed' WHERE name = 'last'",
        "INSERT INTO audit_marks VALUES ('other', 1, 'x')",
        "INSERT OR REPLACE INTO audit_marks VALUES ('removed', 5, 'x')",
        (
            "UPDATE audit_marks SET seq = 4, hash = (SELECT hash FROM audit_rows WHERE seq = 4)"
            " WHERE name = 'removed'"
        ),
        (
            "UPDATE audit_marks SET seq = 5, hash = (SELECT hash FROM audit_rows WHERE seq = 5)"
            " WHERE name = 'removed'"
        ),
    ],
)
@in_loop
async def test_other_tools_are_refused(place: Place, statement: str) -> None:
    log = await filled(place)
    with pytest.raises(sqlite3.IntegrityError, match="audit log"):
        place.tool(statement)
    assert (await log.verify()).problem is None


SHORTENED = (
    "UPDATE audit_marks SET seq = {0}, hash = (SELECT hash FROM audit_rows WHERE seq = {0}) WHERE"
    " name = 'removed'; DELETE FROM audit_rows WHERE seq <= {0}"
)
TAMPERED = {
    "UPDATE audit_rows SET target = 'x' WHERE seq = 2": "row 2 is not as it was written",
    "UPDATE audit_rows SET at_ms = at_ms + 1 WHERE seq = 5": "row 5 is not as it was written",
    "UPDATE audit_rows SET began = 1 WHERE seq = 3": "row 3 is not as it was written",
    "UPDATE audit_rows SET hash = upper(hash) WHERE seq = 3": "row 3 is not as it was written",
    "UPDATE audit_rows SET target = x'00ff' WHERE seq = 4": "row 4 holds values of other kinds",
    "UPDATE audit_rows SET status = 9e999 WHERE seq = 4": "row 4 holds values of other kinds",
    "UPDATE audit_rows SET outcome = 'fine' WHERE seq = 4": "row 4 holds values of other kinds",
    "DELETE FROM audit_rows WHERE seq = 3": "row 3 is missing",
    "DELETE FROM audit_rows WHERE seq = 1": "row 1 is missing",
    "DELETE FROM audit_rows WHERE seq = 5": "row 5 was written, and the log ends with row 4",
    "DELETE FROM audit_rows": "row 5 was written, and the log ends with row 0",
    "DELETE FROM audit_marks": "row 0 is missing",
    "UPDATE audit_marks SET seq = 9 WHERE name = 'last'": "row 9 was written",
    "INSERT INTO audit_rows SELECT 6, at_ms, tenant, who, address, request_id, action, target,"
    " outcome, status, code, began, hash FROM audit_rows WHERE seq = 5": "row 6 is not as it was",
    SHORTENED.format(3): "the rows up to 3 are gone, and none tells that they were removed",
    SHORTENED.format(5): "the rows up to 5 are gone, and none tells that they were removed",
}


@pytest.mark.parametrize("statement", TAMPERED)
@in_loop
async def test_what_is_changed_without_the_triggers_is_found(place: Place, statement: str) -> None:
    await filled(place)
    drop = [f"DROP TRIGGER {name}" for name in TRIGGERS]
    place.tool(*drop, *statement.split(";"), *TRIGGERS.values())
    verdict = await place.log().verify()
    assert verdict.problem is not None
    assert TAMPERED[statement] in verdict.problem


FORGED = (
    "INSERT INTO audit_rows SELECT 6, at_ms, '', 'server', '', '', 'audit.retention',"
    " 'rows 1 to {0}', 'ok', NULL, '', NULL, hash FROM audit_rows WHERE seq = 5"
)


@pytest.mark.parametrize("upto", [3, 5])
@in_loop
async def test_a_row_that_tells_of_a_removal_is_held_to_the_chain(place: Place, upto: int) -> None:
    noted = await (await filled(place)).verify()
    place.tool(FORGED.format(upto), *SHORTENED.format(upto).split(";"))
    log = place.log()
    assert "row 6 is not as it was written" in str((await log.verify()).problem)
    assert (await log.verify((noted.last, noted.hash))).problem is not None


@pytest.mark.parametrize("upto", [3, 5])
@in_loop
async def test_a_noted_row_that_was_removed_is_told(place: Place, upto: int) -> None:
    log = await filled(place, upto)
    noted = await log.verify()
    place.clock.now += 400 * DAY_S
    log = place.log(keep_days=365)
    await log.append(entry())
    assert (await log.verify()).problem is None
    told = str((await log.verify((noted.last, noted.hash))).problem)
    assert f"row {upto} was removed with those up to {upto}" in told


@in_loop
async def test_a_log_of_before_has_the_stricter_trigger(place: Place) -> None:
    database = Database(
        place.path, (Schema("audit", SCHEMA.steps[:1]),), place.clock, NullTelemetry()
    )
    place.opened.append(database)
    place.tool(
        "DROP TRIGGER audit_marks_forward",
        "CREATE TRIGGER audit_marks_forward BEFORE DELETE ON audit_marks BEGIN SELECT 1; END",
    )
    assert (await (await filled(place)).verify()).problem is None


@pytest.mark.parametrize("name", TRIGGERS)
@in_loop
async def test_a_missing_trigger_is_found(place: Place, name: str) -> None:
    log = await filled(place)
    place.tool(f"DROP TRIGGER {name}")
    assert name in str((await log.verify()).problem)
    place.tool(TRIGGERS[name].replace("audit log", "log"))
    assert name in str((await log.verify()).problem)


@in_loop
async def test_a_chain_that_was_computed_anew_is_found_by_a_hash_kept_elsewhere(
    place: Place,
) -> None:
    before = await (await filled(place)).verify()
    place.close()
    place.opened.clear()
    for name in (place.path, *place.path.parent.glob("lmx.db-*")):
        name.unlink()
    log = place.log()
    for number in range(5):
        await log.append(entry(target=f"n{number}", status=200))
    assert (await log.verify()).problem is None
    assert (await log.verify((before.last, before.hash))).problem is not None


# --- retention


@in_loop
async def test_the_oldest_rows_go_together_and_leave_a_row(place: Place) -> None:
    log = place.log(keep_days=30)
    for _ in range(10):
        await log.append(entry())
        place.clock.now += 5 * DAY_S
    rows = await log.page(Wanted(after=0, limit=1000))
    oldest_ms = place.clock.now_ms() - 35 * DAY_S * 1000
    assert rows[0].at_ms >= oldest_ms
    assert all(two.seq == one.seq + 1 for one, two in pairwise(rows))
    told = [row for row in rows if row.action == RETENTION]
    assert told
    assert told[-1].target.endswith(f" to {rows[0].seq - 1}")
    assert (told[-1].who, told[-1].tenant) == ("server", "")
    verdict = await log.verify()
    assert (verdict.problem, verdict.first) == (None, rows[0].seq)


@in_loop
async def test_a_log_may_lose_all_its_rows_and_goes_on(place: Place) -> None:
    log = place.log(keep_days=1)
    for _ in range(3):
        await log.append(entry())
    place.clock.now += 40 * DAY_S
    assert await log.append(entry()) == 5
    rows = await log.page(Wanted())
    assert [(row.seq, row.action) for row in rows] == [(4, RETENTION), (5, "models.load")]
    assert rows[0].target == "rows 1 to 3"
    assert (await log.verify()).problem is None


@in_loop
async def test_a_young_row_behind_a_clock_that_went_back_keeps_what_follows(place: Place) -> None:
    log = place.log(keep_days=10)
    place.clock.now += 100 * DAY_S
    await log.append(entry(target="from the future"))
    place.clock.now -= 100 * DAY_S
    old = place.log(keep_days=10)
    await old.append(entry(target="old"))
    place.clock.now += 50 * DAY_S
    await old.append(entry(target="new"))
    assert [row.target for row in await old.page(Wanted())] == ["from the future", "old", "new"]


@in_loop
async def test_removal_is_bounded_and_looked_at_once_an_hour(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opta_lmx.tenancy.audit._REMOVED_AT_ONCE", 4)
    await filled(place, 10)
    place.clock.now += 400 * DAY_S
    log = place.log(keep_days=365)
    for hour in range(4):
        await log.append(entry(target=f"h{hour}"))
        await log.append(entry())
        place.clock.now += 3601
    firsts = [row.target for row in await log.page(Wanted(action=RETENTION))]
    assert firsts == ["rows 1 to 4", "rows 5 to 8", "rows 9 to 10"]
    assert (await log.verify()).problem is None


# --- what strangers may put into a row


@in_loop
async def test_texts_are_masked_escaped_and_bounded(place: Place) -> None:
    log = place.log()
    key = "lmx_abcdefgh_" + "Q" * 43
    await log.append(
        entry(
            target=f"a\r\n{SECRET}\x1b[2J\u202e\ud800\u2028{key}",
            who="w" * 500,
            request_id="r\n" * 300,
            code="c" * 500,
            address="a" * 500,
        )
    )
    await log.append(entry(target="é" * 5000))
    first, second = await log.page(Wanted())
    assert first.target == r"a\r\n***\x1b[2J\u202e\ud800\u2028lmx_abcdefgh_***"
    assert (len(first.who), len(first.request_id), len(first.address)) == (64, 128, 64)
    assert second.target == "é" * (MAX_TARGET - 1) + "…"
    assert (await log.verify()).problem is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(codec=None), max_size=40), min_size=5, max_size=5),
    status=st.one_of(st.none(), st.integers(0, 999)),
    changed=st.integers(0, 4),
)
def test_any_text_is_kept_and_any_change_is_found(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], status: int | None, changed: int
) -> None:
    place = Place(tmp_path_factory.mktemp("any"))
    log = place.log()

    async def written() -> list[str]:
        for text in texts:
            await log.append(entry(target=text, who=text, status=status))
        return [row.target for row in await log.page(Wanted())]

    kept = asyncio.run(written())
    assert all(text.isprintable() for text in kept)
    assert asyncio.run(log.verify()).problem is None
    drop = [f"DROP TRIGGER {name}" for name in TRIGGERS]
    place.tool(*drop)
    place.tool(
        "UPDATE audit_rows SET target = target || ? WHERE seq = ?", parameters=("x", changed + 1)
    )
    place.tool(*TRIGGERS.values())
    assert f"row {changed + 1} " in str(asyncio.run(log.verify()).problem)
    place.close()


@given(st.text(st.characters(codec=None)))
def test_one_line_is_one_printable_line(text: str) -> None:
    told = one_line(text)
    assert told.isprintable()
    told.encode()
    assert told == text or not text.isprintable()


# --- when it cannot be written


@in_loop
async def test_a_log_that_cannot_be_written_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await filled(place)
    place.tool("DROP TRIGGER audit_no_change", "ALTER TABLE audit_rows RENAME TO gone")
    with pytest.raises(LmxError) as refused:
        await log.append(entry())
    assert refused.value.code == "audit_unavailable"
    assert refused.value.retry_after
    await log.close()


@in_loop
async def test_a_disk_that_hangs_is_not_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opta_lmx.tenancy.audit.WRITE_S", 0.05)
    log = await filled(place)
    go_on = threading.Event()
    real = audit_rows.append

    def hanging(*arguments: Any) -> int:
        go_on.wait(20)
        return real(*arguments)

    monkeypatch.setattr(audit_rows, "append", hanging)
    with pytest.raises(LmxError) as refused:
        await log.append(entry())
    go_on.set()
    assert refused.value.code == "audit_unavailable"
