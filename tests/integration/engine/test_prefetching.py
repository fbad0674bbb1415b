"""A model that is wanted regularly is there when it is asked for; real workers, simulated time."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Caller
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.memory import MemoryPolicy, keep
from opta_lmx.engine.plan import Plan
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
        self.rejections = 0
        self.lines: list[tuple[str, object]] = []

    def log(self, level: str, event: str, **fields: object) -> None:
        self.lines.append((event, fields.get("model")))

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if name == "model_loads_total":
            self.loads[labels["model"], labels["reason"]] += int(value)
        if name == "model_evictions_total":
            self.evictions[labels["model"], labels["reason"]] += int(value)
        if name == "admission_rejections_total":
            self.rejections += int(value)


class Blind(SimResolver):
    """Cannot plan some models, for a reason that no room foresees."""

    def __init__(self, folder: Path, models: Scripts) -> None:
        super().__init__(folder, models)
        self.broken: set[str] = set()

    def plan(self, ref: str, context: int | None = None) -> Plan:
        if ref in self.broken:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text")
        return super().plan(ref, context)


class House:
    """An engine with real workers on simulated time: loading takes none of it."""

    def __init__(self, folder: Path, models: Scripts = MODELS, **policy: Any) -> None:
        self.clock, self.counts = SteppedClock(1000.0), Counts()
        memory = MemoryPolicy(**{"budget_bytes": 12 * GB, **policy})
        options = msgspec.structs.replace(engine_options(), memory=memory)
        self.resolver = Blind(folder, models)
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


@in_loop
async def test_a_model_that_is_being_kept_warm_makes_room_for_who_asks(tmp_path: Path) -> None:
    house = House(tmp_path, {**MODELS, "a": {**MODELS["a"], "load_ms": 60_000}}, warm=("a",))
    house.engine.look_after()
    await until(lambda: house.engine.find("a") is not None)
    await house.visit("b")  # which has room only without it
    assert house.engine.find("a") is None
    assert house.counts.evictions["a", "room"] == 1
    await house.engine.close()


@in_loop
async def test_who_joins_a_load_ahead_of_requests_does_not_lose_it(tmp_path: Path) -> None:
    house = House(tmp_path, {**MODELS, "a": {**MODELS["a"], "load_ms": 300}}, warm=("a",))
    house.engine.look_after()
    await until(lambda: house.engine.find("a") is not None)
    loading = asyncio.create_task(house.engine.load("a"))
    await asyncio.sleep(0)
    with pytest.raises(LmxError, match="In use: a"):
        house.engine.runtime("b")
    assert (await loading).plan.ref == "a"
    await house.engine.close()


@in_loop
async def test_a_warm_model_without_room_is_said_once_and_refuses_nobody(tmp_path: Path) -> None:
    house = House(tmp_path, warm=("a",))
    await house.use("b")
    for _ in range(5):
        await house.clock.advance(31.0)
    assert house.counts.lines.count(("model not loaded ahead", "a")) == 1
    assert house.counts.rejections == 0
    await house.engine.close()


@in_loop
async def test_what_is_kept_warm_is_not_unloaded_ahead_of_requests(tmp_path: Path) -> None:
    house = House(tmp_path, warm=("b",), prefetch=True, ttl_s=1.0)
    await regular(house, "a")
    await house.settle()
    assert house.engine.find("b") is not None
    for _ in range(28):
        await house.clock.advance(TICK_S)
        await house.settle()
    assert house.engine.find("b") is not None
    assert not house.counts.loads["a", "prefetch"]
    await house.engine.close()


@in_loop
async def test_a_failure_nobody_foresaw_strands_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, prefetch=True, warm=("pinned",))
    await regular(house, "a")
    await house.visit("b")
    await house.settle()
    house.resolver.broken = {"a", "pinned"}
    for _ in range(28):
        await house.clock.advance(TICK_S)
        await house.settle()
    failures = [model for event, model in house.counts.lines if event == "memory keeper failed"]
    assert "a" in failures
    assert house.engine.find("b") is None  # it went for a
    await house.visit("b")
    assert house.engine.memory().free_bytes == 12 * GB - 7 * GB - GB
    house.resolver.broken = set()
    await house.clock.advance(31.0)
    await house.settle()
    assert house.engine.find("pinned") is not None
    await house.engine.close()


@in_loop
async def test_a_model_that_takes_more_than_there_is_can_be_loaded_again(tmp_path: Path) -> None:
    models = {**MODELS, "large": {"needs_bytes": 11 * GB, "takes_bytes": 13 * GB}}
    house = House(tmp_path, models)
    for _ in range(2):
        await house.visit("large")
        await house.settle()
        await house.clock.advance(1.0)
        assert house.engine.memory().free_bytes == -GB
        assert house.engine.find("large") is not None  # nobody gains by its going
        await house.visit("a")
        assert house.engine.find("large") is None
    await house.engine.close()


@in_loop
async def test_the_time_to_stay_begins_when_the_model_is_there(tmp_path: Path) -> None:
    house = House(tmp_path, {"a": {"needs_bytes": GB, "load_ms": 300}}, ttl_s=100.0)
    house.engine.runtime("a")
    await house.clock.advance(50.0)
    await house.settle()
    (status,) = house.engine.status()
    assert status.expires_s == 100.0
    await house.clock.advance(10.0)
    (status,) = house.engine.status()
    assert status.expires_s == 90.0
    await house.engine.close()


@in_loop
async def test_a_request_says_how_long_only_where_the_operator_has_not(tmp_path: Path) -> None:
    models = {"free": {}, "set": {"ttl_s": 50.0}}
    for on_demand, expected in (
        (True, {"free": 7.0, "set": 50.0}),
        (False, {"free": 100.0, "set": 50.0}),
    ):
        house = House(tmp_path, models, ttl_s=100.0, on_demand=on_demand)
        for model in models:
            keep(house.engine.runtime(model), 7.0)
        await house.settle()
        assert {one.id: one.expires_s for one in house.engine.status()} == expected
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
