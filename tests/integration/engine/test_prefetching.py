"""A model that is wanted regularly is there when it is asked for; real workers, simulated time."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.core.principal import Caller
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.memory import MemoryPolicy
from opta_lmx.engine.residency import Engine
from opta_lmx.scheduling.ledger import Residency
from tests.support.asynchronous import in_loop
from tests.support.clocks import SteppedClock
from tests.support.sim import SimResolver, engine_options
from tests.support.waiting import until

GB = 10**9
PERIOD_S = 80.0
TICK_S = 0.5
NOBODY = Caller()
Scripts = dict[str, dict[str, Any]]
MODELS: Scripts = {
    "a": {"needs_bytes": 8 * GB},
    "b": {"needs_bytes": 7 * GB},
    "pinned": {"needs_bytes": GB},
    "busy": {"needs_bytes": GB},
}


class Counts(NullTelemetry):
    """Loads and evictions, by model and reason."""

    def __init__(self) -> None:
        self.loads: Counter[tuple[str, str]] = Counter()
        self.evictions: Counter[tuple[str, str]] = Counter()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if name == "model_loads_total":
            self.loads[labels["model"], labels["reason"]] += int(value)
        if name == "model_evictions_total":
            self.evictions[labels["model"], labels["reason"]] += int(value)


class House:
    """An engine with real workers on simulated time: loading takes none of it."""

    def __init__(self, folder: Path, models: Scripts = MODELS, **policy: Any) -> None:
        self.clock, self.counts = SteppedClock(1000.0), Counts()
        memory = MemoryPolicy(**{"budget_bytes": 12 * GB, **policy})
        options = msgspec.structs.replace(engine_options(), memory=memory)
        self.resolver = SimResolver(folder, models)
        self.engine = Engine(self.resolver, options, self.clock, self.counts)

    async def settle(self) -> None:
        """Wait, in real time, until nobody comes or goes."""
        ready = Residency.READY.value
        await until(lambda: all(one.state == ready for one in self.engine.memory().models))

    async def use(self, model: str) -> tuple[Any, int]:
        """Ask for a model, and hold a place in its line."""
        runtime = self.engine.runtime(model)
        (ticket,) = runtime.line.enter_many(1, NOBODY)
        await runtime.until_ready()
        return runtime, ticket

    async def visit(self, model: str) -> None:
        runtime, ticket = await self.use(model)
        runtime.leave(ticket, submitted=False)

    async def play(self, trace: list[tuple[float, str]]) -> None:
        """Requests at their times, with the keeper looking all along."""
        pending = sorted(trace)
        while pending:
            await self.clock.advance(TICK_S)
            await self.settle()
            while pending and pending[0][0] <= self.clock.now:
                await self.visit(pending.pop(0)[1])

    def cold(self) -> int:
        """Loads of the periodic pair that a request had to wait for."""
        return sum(self.counts.loads[model, "request"] for model in "ab")


def spells(model: str, first: float, number: int) -> Iterator[tuple[float, str]]:
    """Spells of one to three requests, at a period that is not exact."""
    draw = random.Random(model)
    for spell in range(number):
        at = 1000.0 + first + PERIOD_S * (spell + draw.uniform(-0.04, 0.04))
        for _ in range(draw.randint(1, 3)):
            yield at, model
            at += draw.uniform(0.5, 3)


def pair(number: int) -> list[tuple[float, str]]:
    return [*spells("a", 10, number), *spells("b", 50, number)]


async def run(folder: Path, number: int, *, ahead: bool) -> House:
    """Play the pair while one model is pinned and another one busy all the time."""
    house = House(folder, prefetch=ahead, pinned=("pinned",))
    await house.visit("pinned")
    await house.use("busy")
    stay = {name: house.engine.find(name) for name in ("pinned", "busy")}
    await house.play(pair(number))
    assert {name: house.engine.find(name) for name in stay} == stay
    assert {model for model, _ in house.counts.evictions} <= {"a", "b"}
    await house.engine.close()
    return house


@in_loop
async def test_once_the_period_is_known_nothing_is_cold(tmp_path: Path) -> None:
    learning = 5
    house = await run(tmp_path, learning + 2, ahead=True)
    assert house.cold() <= 2 * learning
    assert sum(house.counts.loads[model, "prefetch"] for model in "ab") >= 2 * 2


@pytest.mark.slow
@in_loop
async def test_four_fifths_of_the_cold_loads_are_gone(tmp_path: Path) -> None:
    number = 30
    off = await run(tmp_path / "off", number, ahead=False)
    on = await run(tmp_path / "on", number, ahead=True)
    assert off.cold() == 2 * number
    assert on.cold() <= 0.2 * off.cold()


@in_loop
async def test_what_is_to_be_warm_is_loaded_into_free_memory_only(tmp_path: Path) -> None:
    house = House(tmp_path, warm=("a", "nobody"), ttl_s=5.0)
    house.engine.look_after()
    await until(lambda: house.engine.find("a") is not None)
    await house.settle()
    assert house.counts.loads["a", "warm"] == 1
    await house.clock.advance(10.0)
    assert house.engine.find("a") is not None  # it does not expire
    await house.visit("b")  # which has room only without it
    assert house.engine.find("a") is None
    await house.clock.advance(1.0)
    assert house.engine.find("a") is None
    await house.clock.advance(6.0)  # b expires
    await until(lambda: house.engine.find("b") is None)
    await house.settle()
    await house.clock.advance(60.0)
    await house.settle()
    assert house.engine.find("a") is not None
    await house.engine.unload("a")
    await house.clock.advance(60.0)
    assert house.engine.find("a") is None  # an operator's word counts
    await house.engine.close()


async def regular(house: House, model: str) -> None:
    """Make a model's use regular, until just before the next is expected."""
    await house.play([(1000.0 + 60 * number, model) for number in range(1, 5)])
    await house.settle()
    await house.clock.advance(45.0)
    await house.settle()


@in_loop
async def test_what_was_loaded_ahead_does_not_expire_before_it_is_due(tmp_path: Path) -> None:
    house = House(tmp_path, prefetch=True, ttl_s=1.0)
    await regular(house, "a")
    assert house.engine.find("a") is None
    for _ in range(28):
        await house.clock.advance(TICK_S)
        await house.settle()
    assert house.counts.loads["a", "prefetch"] == 1
    assert house.engine.find("a") is not None
    await house.visit("a")
    assert house.counts.loads["a", "prefetch"] == 1
    for _ in range(60):  # nobody comes the next time
        await house.clock.advance(2.0)
        await house.settle()
    assert house.engine.find("a") is None
    assert house.counts.loads["a", "prefetch"] == 2
    await house.engine.close()


@in_loop
async def test_what_cannot_be_loaded_ahead_is_tried_once(tmp_path: Path) -> None:
    models = {"a": dict(MODELS["a"])}
    house = House(tmp_path, models, prefetch=True, ttl_s=1.0)
    await regular(house, "a")
    models["a"]["fail_load"] = "broken"
    for _ in range(40):
        await house.clock.advance(TICK_S)
        await house.settle()
    assert house.counts.loads["a", "prefetch"] == 1
    assert house.engine.find("a") is None
    assert house.engine.memory().free_bytes == 12 * GB
    await house.engine.close()
