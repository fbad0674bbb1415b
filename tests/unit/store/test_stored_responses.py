"""Stored responses: read back, continued, paged, expired and bounded."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.serving.response_rows import SCHEMA
from opta_lmx.serving.responses import ResponseLimits, StoredResponses
from opta_lmx.store.database import Database

Json = dict[str, Any]


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def monotonic(self) -> float:
        return self.ms / 1000

    def now_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


class Shelf:
    """A store with its clock."""

    def __init__(self, path: Path, limits: ResponseLimits) -> None:
        self.clock = HandClock()
        self.database = Database(path, (SCHEMA,), self.clock, NullTelemetry())
        self.store = StoredResponses(self.database, limits, self.clock, NullTelemetry())


def body(name: str, previous: str | None = None, status: str = "completed") -> Json:
    output = [message(f"msg_{name}_out", "assistant", f"answer {name}")]
    return {
        "id": f"resp_{name}",
        "previous_response_id": previous,
        "status": status,
        "output": output if status == "completed" else [],
    }


def message(item_id: str, role: str, text: str) -> Json:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "id": item_id, "role": role, "content": [{kind: text}]}


def asked(name: str, count: int = 1) -> list[Json]:
    return [message(f"msg_{name}_{n}", "user", f"question {name} {n}") for n in range(count)]


Scenario = Callable[[Shelf], Coroutine[None, None, None]]


def on_shelf(path: Path, scenario: Scenario, **limits: float) -> None:
    async def main() -> None:
        shelf = Shelf(path / "lmx.db", ResponseLimits(**limits))  # type: ignore[arg-type]
        await scenario(shelf)
        await shelf.database.close()

    asyncio.run(main())


async def refused(call: Coroutine[None, None, Any]) -> LmxError:
    with pytest.raises(LmxError) as caught:
        await call
    return caught.value


def test_a_response_is_read_back_and_gone_when_deleted(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), asked("a"))
        assert b'"resp_a"' in await shelf.store.get("resp_a")
        await shelf.store.delete("resp_a")
        for call in (shelf.store.get("resp_a"), shelf.store.delete("resp_a")):
            error = await refused(call)
            assert (error.kind, error.code) == (ErrorKind.NOT_FOUND, "response_not_found")
        assert await shelf.store.items(["msg_a_0"]) == {}

    on_shelf(tmp_path, scenario)


def test_a_conversation_is_the_chain_of_its_responses(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), asked("a"))
        await shelf.store.save(body("b", "resp_a"), asked("b", 2))
        await shelf.store.save(body("fork", "resp_a"), asked("fork"))
        ids = [item["id"] for item in await shelf.store.history("resp_b")]
        assert ids == ["msg_a_0", "msg_a_out", "msg_b_0", "msg_b_1", "msg_b_out"]
        ids = [item["id"] for item in await shelf.store.history("resp_fork")]
        assert ids == ["msg_a_0", "msg_a_out", "msg_fork_0", "msg_fork_out"]

    on_shelf(tmp_path, scenario)


def test_a_chain_with_a_gap_is_refused_not_cut(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), asked("a"))
        await shelf.store.save(body("b", "resp_a"), asked("b"))
        await shelf.store.delete("resp_a")
        for missing in ("resp_b", "resp_never"):
            error = await refused(shelf.store.history(missing))
            assert error.code == "previous_response_not_found"
            assert error.param == "previous_response_id"

    on_shelf(tmp_path, scenario)


def test_an_unfinished_response_cannot_be_continued(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a", status="in_progress"), asked("a"))
        assert (await refused(shelf.store.history("resp_a"))).code == "response_not_finished"
        assert [one["id"] for one in await shelf.store.unfinished()] == ["resp_a"]
        await shelf.store.replace(body("a"))
        assert len(await shelf.store.history("resp_a")) == 2
        assert await shelf.store.unfinished() == []

    on_shelf(tmp_path, scenario)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_response_that_did_not_end_well_cannot_be_continued(tmp_path: Path, status: str) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a", status=status), asked("a"))
        assert (await refused(shelf.store.history("resp_a"))).code == "previous_response_failed"

    on_shelf(tmp_path, scenario)


def test_a_response_deleted_while_it_was_made_stays_deleted(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a", status="queued"), asked("a"))
        await shelf.store.delete("resp_a")
        await shelf.store.replace(body("a"))
        assert (await refused(shelf.store.get("resp_a"))).code == "response_not_found"

    on_shelf(tmp_path, scenario)


def test_chains_are_bounded_in_turns_and_bytes(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        previous = None
        for n in range(4):
            await shelf.store.save(body(str(n), previous), asked(str(n)))
            previous = f"resp_{n}"
        assert len(await shelf.store.history("resp_2")) == 6
        assert (await refused(shelf.store.history("resp_3"))).code == "conversation_too_long"

    on_shelf(tmp_path, scenario, max_turns=3)
    (tmp_path / "other").mkdir()

    async def heavy(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), [message("msg_a", "user", "x" * 5000)])
        assert (await refused(shelf.store.history("resp_a"))).code == "conversation_too_long"

    on_shelf(tmp_path / "other", heavy, max_history_bytes=4000)


def test_input_items_are_paged_both_ways(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), asked("a", 5))
        page = await shelf.store.input_items("resp_a")
        assert [item["id"] for item in page.items] == [f"msg_a_{n}" for n in (4, 3, 2, 1, 0)]
        assert not page.has_more
        page = await shelf.store.input_items("resp_a", order="asc", limit=2)
        assert [item["id"] for item in page.items] == ["msg_a_0", "msg_a_1"]
        assert page.has_more
        page = await shelf.store.input_items("resp_a", order="asc", limit=3, after="msg_a_1")
        assert [item["id"] for item in page.items] == ["msg_a_2", "msg_a_3", "msg_a_4"]
        assert not page.has_more
        assert (await refused(shelf.store.input_items("resp_a", after="no"))).param == "after"
        assert (await refused(shelf.store.input_items("resp_b"))).kind is ErrorKind.NOT_FOUND

    on_shelf(tmp_path, scenario)


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), asked("a"), "other")
        for call in (
            shelf.store.get("resp_a"),
            shelf.store.delete("resp_a"),
            shelf.store.history("resp_a"),
            shelf.store.input_items("resp_a"),
        ):
            assert "not found" in (await refused(call)).message
        assert await shelf.store.items(["msg_a_0"]) == {}
        assert await shelf.store.get("resp_a", "other")

    on_shelf(tmp_path, scenario)


def test_responses_expire_but_not_before_what_builds_on_them(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), asked("a"))
        await shelf.store.save(body("lone"), asked("lone"))
        shelf.clock.ms += 900_000
        await shelf.store.save(body("b", "resp_a"), asked("b"))
        shelf.clock.ms += 600_000
        assert (await refused(shelf.store.get("resp_lone"))).code == "response_not_found"
        assert len(await shelf.store.history("resp_b")) == 4
        assert await shelf.store.sweep() == 1
        shelf.clock.ms += 600_000
        assert await shelf.store.sweep() == 2
        assert await shelf.store.sweep() == 0

    on_shelf(tmp_path, scenario, ttl_s=1000.0)


def test_the_oldest_go_first_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        for n in range(700):
            shelf.clock.ms += 1
            await shelf.store.save(body(f"{n:03}"), asked(f"{n:03}"))
        gone = await shelf.store.sweep()
        assert 600 < gone < 700, "more than one batch, and no more than asked"
        assert await shelf.store.get("resp_699")
        assert (await refused(shelf.store.get(f"resp_{gone - 1:03}"))).code == "response_not_found"
        assert await shelf.store.get(f"resp_{gone:03}")

    on_shelf(tmp_path, scenario, max_bytes=20_000)


def test_without_a_database_every_call_says_so(tmp_path: Path) -> None:
    (tmp_path / "lmx.db").write_bytes(b"garbage" * 1000)

    async def scenario(shelf: Shelf) -> None:
        with pytest.raises(LmxError) as caught:
            shelf.store.check()
        assert caught.value.code == "store_unavailable"
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert (await refused(shelf.store.get("resp_a"))).code == "store_unavailable"

    on_shelf(tmp_path, scenario)


def test_the_bytes_are_bounded_also_while_others_expire(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("old"), asked("old"))
        shelf.clock.ms += 1_001_000
        for n in range(100):
            await shelf.store.save(body(f"{n:03}"), asked(f"{n:03}"))
        assert await shelf.store.sweep() > 50
        assert await shelf.store.sweep() == 0

    on_shelf(tmp_path, scenario, ttl_s=1000.0, max_bytes=20_000)


def test_what_ended_meanwhile_is_not_taken_for_lost(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a", status="in_progress"), asked("a"))
        (seen,) = await shelf.store.unfinished()
        await shelf.store.replace(body("a"))
        await shelf.store.replace({**seen, "status": "failed"})
        assert b'"completed"' in await shelf.store.get("resp_a")
        assert len(await shelf.store.history("resp_a")) == 2

    on_shelf(tmp_path, scenario)


def test_what_a_sweep_removes_is_given_back_to_the_disk(tmp_path: Path) -> None:
    sizes: list[int] = []

    async def scenario(shelf: Shelf) -> None:
        for n in range(200):
            await shelf.store.save(body(str(n)), [message(f"m_{n}", "user", "x" * 60_000)])
        shelf.clock.ms += 2_000_000
        sizes.append((tmp_path / "lmx.db").stat().st_size)
        assert await shelf.store.sweep() == 200

    on_shelf(tmp_path, scenario, ttl_s=1000.0)
    assert sizes[0] > 8_000_000
    assert (tmp_path / "lmx.db").stat().st_size < 500_000


def test_much_stored_at_once_makes_a_sweep_due(tmp_path: Path) -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.store.save(body("a"), asked("a"))
        assert not shelf.store.crowded
        for n in range(10):
            await shelf.store.save(body(str(n)), asked(str(n)))
        assert shelf.store.crowded
        await shelf.store.sweep()
        assert not shelf.store.crowded

    on_shelf(tmp_path, scenario, max_bytes=50_000)
