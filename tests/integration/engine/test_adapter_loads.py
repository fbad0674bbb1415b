"""Loads with adapters in real workers: files that change meanwhile, and such as do not fit."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.numpy import save_file

from opta_lmx.app import build
from opta_lmx.backends.frames import Load, Submit
from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.config.settings import Settings
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.core.types import SamplingParams
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.residency import Engine
from opta_lmx.models.store import ModelStore
from tests.support.adapters import adapter_tensors, write_adapter
from tests.support.asynchronous import in_loop
from tests.support.sim import engine_options
from tests.support.tiny import tiny_llama
from tests.support.waiting import until

pytestmark = pytest.mark.engine
PART = "model.layers.2.mlp.down_proj.lora_a"


class Writing(Planner):
    """Has something done to the files after they were looked at last, before a worker starts."""

    between: Callable[[], object] = staticmethod(lambda: None)

    def plan(self, ref: str, context: int | None = None) -> Plan:
        plan = super().plan(ref, context)

        async def prepare() -> Load:
            load = await plan.prepare()
            self.between()
            return load

        return msgspec.structs.replace(plan, prepare=prepare)


class Loads(NullTelemetry):
    """Counts loads by reason."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if name == "model_loads_total":
            self.begun[labels["reason"]] += int(value)


class Bench:
    """An engine with the tiny Llama and its adapter `own`."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "own"
        write_adapter(self.folder, 1)
        store = ModelStore(home / "models")
        store.sweep()
        store.add(tiny_llama(), "m")
        models = ModelsSettings.model_validate({"adapters": {"m": {"own": "own"}}})
        memory = MemorySettings(budget_bytes=1 << 34)
        settings = EngineSettings.model_validate({"slots": 1, "context": 512})
        self.planner = Writing(store, settings, home, models, memory)
        self.loads = Loads()
        options = engine_options(load_timeout_s=120.0)
        self.engine = Engine(self.planner, options, SystemClock(), self.loads)

    async def refusal(self) -> LmxError:
        with pytest.raises(LmxError) as caught:
            await self.engine.load("m")
        await until(lambda: self.engine.find("m") is None, timeout_s=60)
        return caught.value


@in_loop
async def test_what_was_read_is_what_was_checked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        bench.planner.between = lambda: write_adapter(bench.folder, 2)
        error = await bench.refusal()
        assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "adapter_changed")
        assert (error.param, error.retry_after) == ("model", 1)
        assert "'own' of model 'm' has been changed" in error.message
        bench.planner.between = lambda: None
        runtime = await bench.engine.load("m")
        assert list(runtime.plan.adapters) == ["own"]
        # What is not known must not pass for the model as it is.
        unknown = Submit(1, (1, 2, 3), SamplingParams(), 4, adapter="other")
        with pytest.raises(KeyError, match="other"):
            await asyncio.wait_for(runtime.begin(unknown), 30)
    finally:
        await bench.engine.close()


@in_loop
async def test_an_adapter_that_does_not_fit_costs_one_load(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sound = adapter_tensors(bench.folder)
    save_file(sound | {PART: sound[PART][:512]}, bench.folder / "adapters.safetensors")
    try:
        for _ in range(2):
            error = await bench.refusal()
            assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "adapter_refused")
            assert error.param == "models.adapters.m.own"
            assert "(768, 4) would fit" in error.message
        with pytest.raises(LmxError, match="would fit"):
            bench.engine.runtime("m:own")
        assert bench.loads.begun == {"operator": 1}
        save_file(sound, bench.folder / "adapters.safetensors")
        bench.planner.plan("m")
        await bench.engine.load("m")
        assert bench.loads.begun == {"operator": 2}
    finally:
        await bench.engine.close()


def test_adapters_of_no_model_are_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters: dict[str, Any] = {"m": {"own": "own"}, "M": {"own": "own"}, "typo": {"own": "own"}}
    store = ModelStore(tmp_path / "models")
    store.sweep()
    store.add(tiny_llama(), "m")
    settings = Settings.model_validate({"models": {"adapters": adapters}})
    asyncio.run(build(settings, tmp_path, []).close())
    lines = [line for line in capsys.readouterr().err.splitlines() if "no stored model" in line]
    assert len(lines) == 1
    assert "typo" in lines[0]
    assert "'m'" not in lines[0]
