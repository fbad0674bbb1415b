"""What befalls models while they make room for each other; real workers, simulated time."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Caller
from opta_lmx.engine.runtime import ModelRuntime, ModelState
from opta_lmx.scheduling.rules import Work
from tests.integration.engine.test_prefetching import GB, House
from tests.integration.engine.test_waiting_for_room import busy, pass_time
from tests.support.asynchronous import in_loop
from tests.support.waiting import until

TURN_S = 20.0
NOBODY = Caller()


def house_of(folder: Path, turn_s: float = TURN_S, **more: Any) -> House:
    models: dict[str, dict[str, Any]] = {
        "a": {"needs_bytes": 6 * GB},
        "b": {"needs_bytes": 7 * GB},
        "idle": {"needs_bytes": 2 * GB},
        "small": {"needs_bytes": 3 * GB},
        "huge": {"needs_bytes": 50 * GB},
    }
    return House(folder, models, swap_after_s=turn_s, **more)


def waiter(house: House, model: str) -> tuple[ModelRuntime, int]:
    """Somebody waits for a model that has no room."""
    runtime = house.engine.runtime(model)
    (ticket,) = runtime.line.enter_many(1, NOBODY)
    return runtime, ticket


async def shut(house: House) -> tuple[tuple[ModelRuntime, int], tuple[ModelRuntime, int]]:
    """Have a model begin nothing new, as its turn is over, and somebody wait for the other."""
    first = await busy(house, "a")
    second = waiter(house, "b")
    await pass_time(house, TURN_S + 5)
    assert first[0].line.shut
    return first, second


def held_flush(runtime: ModelRuntime) -> asyncio.Event:
    """Let what a model saves when its worker ends take until the event is set."""
    gate = asyncio.Event()

    async def flush(_: float) -> None:
        await gate.wait()

    runtime.cache.flush = flush  # type: ignore[method-assign]
    return gate


@in_loop
async def test_who_is_sent_away_and_comes_back_keeps_the_place(tmp_path: Path) -> None:
    house = house_of(tmp_path, 500.0)
    await busy(house, "a")
    refused: list[tuple[str, float | None]] = []
    for _ in range(12):
        runtime = house.engine.runtime("b")
        try:
            runtime.admit_cold()
        except LmxError as error:
            refused.append((error.code, error.retry_after))
            await pass_time(house, 60)
        else:
            break
    # The turn is counted from the first call: what is left of it can be waited for in the end.
    assert set(refused) == {("model_loading", 60.0)}
    assert 6 <= len(refused) <= 8
    await house.engine.close()


@in_loop
async def test_what_is_promised_is_waited_for_and_no_longer(tmp_path: Path) -> None:
    house = house_of(tmp_path, 200.0)
    runtime, _ = await busy(house, "a")
    await pass_time(house, 1)
    waiting = house.engine.runtime("b")
    with pytest.raises(LmxError, match="is being loaded"):
        waiting.admit_cold()
    await pass_time(house, 150)
    assert house.engine.find("b") is waiting  # nobody came, but may yet
    with pytest.raises(LmxError, match="is being loaded"):
        waiting.loading.admit(1.0)
    await pass_time(house, 55)
    assert runtime.line.shut
    await pass_time(house, 20)
    assert not runtime.line.shut
    await house.engine.close()


@in_loop
async def test_nobody_is_shut_for_a_model_that_nobody_waits_for(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    (runtime, _), (other, ticket) = await shut(house)
    other.leave(ticket, submitted=False)
    (late,) = runtime.line.enter_many(1, NOBODY)
    runtime.line.mark_ready(late, Work(1))
    await pass_time(house, 1)
    assert not runtime.line.shut
    assert runtime.usable.is_set()
    assert "a" in {line.model for line in house.engine.memory().models}
    await house.engine.close()


@in_loop
async def test_no_slot_is_given_on_a_worker_that_ends_for_others(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    (runtime, ticket), _ = await shut(house)
    (late,) = runtime.line.enter_many(1, NOBODY)
    turn = asyncio.create_task(runtime.turn(late, Work(1)))
    gate = held_flush(runtime)
    await asyncio.sleep(0)
    runtime.line.release(ticket)
    await pass_time(house, 1)
    assert runtime.state is ModelState.LOADING
    assert runtime.worker is not None
    (other,) = runtime.line.enter_many(1, NOBODY)
    runtime.leave(other, submitted=False)  # whoever goes is an occasion to give slots
    await asyncio.sleep(0)
    assert runtime.line.shut
    assert not turn.done()
    gate.set()
    await until(lambda: runtime.worker is None)
    assert not turn.done()
    await house.engine.close()
    with pytest.raises(LmxError, match="shutting down"):
        await turn


@in_loop
async def test_a_model_that_takes_nothing_from_the_first_in_line_passes(tmp_path: Path) -> None:
    house = house_of(tmp_path, budget_bytes=10 * GB)
    await busy(house, "a")
    await house.visit("idle")
    waiter(house, "b")
    small = house.engine.runtime("small")  # free room, and that of the idle one
    assert house.engine.find("idle") is None
    await small.until_ready()
    assert {line.model for line in house.engine.memory().models} >= {"a", "small"}
    await house.engine.close()


@in_loop
async def test_what_can_never_fit_is_refused_though_others_wait(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    await busy(house, "a")
    waiter(house, "b")
    with pytest.raises(LmxError, match="the budget is") as refused:
        house.engine.runtime("huge")
    assert refused.value.code == "model_too_large"
    assert house.counts.rejections == 1
    await house.engine.close()


@in_loop
async def test_who_waited_in_vain_is_told_of_the_room_too(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    await busy(house, "a")
    other, ticket = waiter(house, "b")
    await pass_time(house, 600)
    # What runs has been beyond its turn for 580 s: a quarter of that, and no more than is told.
    assert other.retry_after(ticket) == 60.0
    other.leave(ticket, submitted=False)
    await pass_time(house, 30)
    assert house.engine.find("a").line.shut  # type: ignore[union-attr]
    await pass_time(house, 40)
    assert not house.engine.find("a").line.shut  # type: ignore[union-attr]
    await house.engine.close()


@in_loop
async def test_the_pause_before_a_restart_keeps_nobody_waiting(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    (runtime, ticket), (other, _) = await shut(house)
    runtime.line.enter_many(1, NOBODY)
    runtime._vitals.ended = lambda *_: 600.0  # type: ignore[method-assign]
    assert runtime.worker is not None
    assert runtime.worker.pid is not None
    os.kill(runtime.worker.pid, signal.SIGKILL)
    await until(lambda: runtime.state is ModelState.RESTARTING and runtime.worker is None)
    runtime.line.release(ticket)
    await pass_time(house, 1)
    assert runtime.state is ModelState.LOADING
    await other.until_ready()
    await house.engine.close()


@in_loop
async def test_a_worker_that_comes_up_again_makes_room_at_once(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    (runtime, ticket), (other, _) = await shut(house)
    runtime.line.enter_many(1, NOBODY)
    house.resolver.scripts["a"]["load_ms"] = 120_000
    assert runtime.worker is not None
    assert runtime.worker.pid is not None
    first = runtime.worker
    os.kill(runtime.worker.pid, signal.SIGKILL)
    await until(lambda: runtime.state is ModelState.RESTARTING and runtime.worker is None)
    await pass_time(house, 1)
    await until(lambda: runtime.worker is not None and runtime.worker is not first)
    runtime.line.release(ticket)
    await pass_time(house, 1)
    await other.until_ready()
    assert runtime.state is ModelState.LOADING
    assert {line.model for line in house.engine.memory().models} == {"b"}
    # Its load was broken off, and is not held against it.
    assert house.counts.lines.count(("worker ended", "a")) == 1
    await house.engine.close()


@in_loop
async def test_a_model_that_comes_up_while_it_is_held_begins_nothing(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    (runtime, _), _ = await shut(house)
    first = runtime.worker
    assert first is not None
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: runtime.state is ModelState.RESTARTING and runtime.worker is None)
    await pass_time(house, 1)
    await until(lambda: runtime.state is ModelState.READY)
    assert runtime.held
    assert runtime.line.shut
    assert not runtime.usable.is_set()
    await house.engine.close()


@in_loop
async def test_an_operator_finds_a_model_that_is_held_loaded(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    (runtime, _), _ = await shut(house)
    assert await house.engine.load("a") is runtime
    await house.engine.close()


@in_loop
async def test_an_operator_counts_among_those_who_wait(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    (runtime, ticket), (other, left) = await shut(house)
    load = asyncio.create_task(house.engine.load("b"))
    await asyncio.sleep(0)
    other.leave(left, submitted=False)
    await pass_time(house, 200)
    assert not load.done()
    assert runtime.line.shut
    runtime.line.release(ticket)
    await pass_time(house, 1)
    assert await load is other
    assert other.joined == 0
    await house.engine.close()


@in_loop
async def test_a_model_unloaded_while_it_makes_room_leaves_nothing_on_the_books(
    tmp_path: Path,
) -> None:
    house = house_of(tmp_path)
    (runtime, ticket), (other, last) = await shut(house)
    runtime.line.enter_many(1, NOBODY)
    gate = held_flush(runtime)
    runtime.line.release(ticket)
    await pass_time(house, 1)
    assert runtime.worker is not None
    unload = asyncio.create_task(house.engine.unload("a"))
    await asyncio.sleep(0)
    gate.set()
    await unload
    await other.until_ready()
    assert {line.model for line in house.engine.memory().models} == {"b"}
    other.leave(last, submitted=False)
    await house.engine.unload("b")
    assert house.engine.memory().models == ()
    await house.engine.close()
