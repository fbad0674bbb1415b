"""Models in line for room that nobody wants any more, or that can have none; simulated time."""

from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Caller
from opta_lmx.engine.runtime import ModelRuntime, ModelState
from opta_lmx.scheduling.rules import Work
from tests.integration.engine.test_prefetching import GB, TICK_S, House
from tests.support.asynchronous import in_loop

SIX: dict[str, dict[str, Any]] = {
    "a": {"needs_bytes": 6 * GB},
    "b": {"needs_bytes": 7 * GB},
    "pinned": {"needs_bytes": 6 * GB},
}


async def busy(house: House, model: str) -> tuple[ModelRuntime, int]:
    """Have a model run a request that does not end by itself."""
    runtime, ticket = await house.use(model)
    runtime.line.mark_ready(ticket, Work(1))
    assert runtime.line.grant() == ticket
    return runtime, ticket


async def pass_time(house: House, seconds: float) -> None:
    for _ in range(int(seconds / TICK_S)):
        await house.clock.advance(TICK_S)


@in_loop
async def test_what_nobody_waits_for_any_more_is_not_loaded(tmp_path: Path) -> None:
    house = House(tmp_path, SIX, swap_after_s=20.0)
    runtime, ticket = await busy(house, "a")
    waiting = house.engine.runtime("b")
    (other,) = waiting.line.enter_many(1, Caller())
    await pass_time(house, 200)
    assert house.engine.find("b") is waiting  # somebody does
    assert runtime.line.shut
    waiting.leave(other, submitted=False)
    await pass_time(house, 100)
    assert house.engine.find("b") is waiting  # and may come back
    await pass_time(house, 30)
    assert house.engine.find("b") is None
    assert not runtime.line.shut
    assert runtime.usable.is_set()
    runtime.line.release(ticket)
    assert house.counts.loads["b", "swap"] == 1
    assert house.resolver.loads == ["a"]
    await house.engine.close()


@in_loop
async def test_what_has_no_room_any_more_is_refused(tmp_path: Path) -> None:
    house = House(tmp_path, SIX, swap_after_s=20.0, pinned=("pinned",))
    _, ticket = await busy(house, "a")
    waiting = house.engine.runtime("b")
    waiting.line.enter_many(1, Caller())
    await house.engine.load("pinned")  # the word of an operator, who takes what is free
    await pass_time(house, 1)
    with pytest.raises(LmxError, match="pinned models hold") as refused:
        await waiting.until_ready()
    assert refused.value.code == "model_too_large"
    assert house.engine.find("b") is None
    house.engine.find("a").line.release(ticket)  # type: ignore[union-attr]
    assert {line.model for line in house.engine.memory().models} == {"a", "pinned"}
    await house.engine.close()


@in_loop
async def test_nothing_is_loaded_ahead_while_anybody_waits_for_room(tmp_path: Path) -> None:
    house = House(tmp_path, SIX, swap_after_s=20.0, warm=("pinned",))
    await busy(house, "a")
    waiting = house.engine.runtime("b")
    waiting.line.enter_many(1, Caller())
    await pass_time(house, 60)
    assert house.engine.find("pinned") is None  # though there is free room for it
    await house.engine.unload("b")
    await pass_time(house, 40)
    assert house.engine.find("pinned") is not None
    await house.engine.close()


@in_loop
async def test_who_is_next_in_a_model_that_goes_is_not_begun_there(tmp_path: Path) -> None:
    house = House(tmp_path, SIX, swap_after_s=20.0)
    runtime, ticket = await busy(house, "a")
    house.engine.runtime("b").line.enter_many(1, Caller())
    await pass_time(house, 30)
    assert runtime.line.shut
    (late,) = runtime.line.enter_many(1, Caller())
    runtime.line.mark_ready(late, Work(1))
    runtime.line.release(ticket)
    await pass_time(house, 1)
    assert house.engine.find("a") is runtime
    assert (runtime.state, runtime.line.waiting) == (ModelState.LOADING, 1)
    await house.settle()
    assert house.engine.memory().models[0].model == "b"
    await house.engine.close()
