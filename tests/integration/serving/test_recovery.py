"""What an engine does at its start with what the last one left."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.core.clock import SystemClock
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.core.types import Message, Prompt
from opta_lmx.engine.memory import MemoryPolicy
from opta_lmx.engine.residency import Engine, EngineOptions
from tests.support.sim import SimResolver, engine_options
from tests.support.waiting import until

SIZED = {"needs_bytes": 10_000_000_000}
Body = Callable[[Engine, SimResolver], Awaitable[None]]


def leave(home: Path, *models: str, stops: int = 0) -> None:
    """What a killed server leaves that had these models, the last one used last."""
    notes: list[dict[str, Any]] = [{"model": name, "reason": "request"} for name in models]
    unclean = [SystemClock().now_ms()] * stops
    (home / "loaded.json").write_text(json.dumps({"unclean_ms": unclean, "models": notes}))


def with_engine(
    home: Path,
    scripts: dict[str, dict[str, Any]],
    body: Body,
    *,
    memory: MemoryPolicy = MemoryPolicy(),  # noqa: B008  (frozen)
    restore: bool = True,
    **options: Any,
) -> None:
    made: EngineOptions = engine_options(**options)
    recovery = msgspec.structs.replace(made.recovery, folder=home, restore=restore)
    made = msgspec.structs.replace(made, recovery=recovery, memory=memory)

    async def main() -> None:
        resolver = SimResolver(home, scripts)
        engine = Engine(resolver, made, SystemClock(), NullTelemetry())
        await engine.recovery.begin()
        try:
            await body(engine, resolver)
        finally:
            await engine.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def states(engine: Engine) -> dict[str, str]:
    return {status.id: status.state for status in engine.status()}


def test_models_come_back_into_free_memory_only(tmp_path: Path) -> None:
    leave(tmp_path, "oldest", "older", "last", "gone")

    async def body(engine: Engine, resolver: SimResolver) -> None:
        await engine.restore()
        assert resolver.loads == ["last", "older"]
        assert states(engine) == {"last": "ready", "older": "ready"}

    scripts = {"oldest": SIZED, "older": SIZED, "last": SIZED}
    with_engine(tmp_path, scripts, body, memory=MemoryPolicy(budget_bytes=25_000_000_000))
    assert not (tmp_path / "loaded.json").exists()


def test_one_that_does_not_come_back_keeps_no_other_away(tmp_path: Path) -> None:
    leave(tmp_path, "good", "bad")

    async def body(engine: Engine, resolver: SimResolver) -> None:
        await engine.restore()
        assert resolver.loads == ["bad", "good"]
        await until(lambda: states(engine) == {"good": "ready"})

    with_engine(tmp_path, {"good": {}, "bad": {"fail_load": "bad weights"}}, body)


def test_a_model_somebody_asks_for_meanwhile_is_loaded_once(tmp_path: Path) -> None:
    leave(tmp_path, "a")

    async def body(engine: Engine, resolver: SimResolver) -> None:
        await asyncio.gather(engine.restore(), engine.load("a"))
        assert resolver.loads == ["a"]

    with_engine(tmp_path, {"a": {"load_ms": 100}}, body)


def test_restoring_may_be_switched_off(tmp_path: Path) -> None:
    leave(tmp_path, "a")

    async def body(engine: Engine, resolver: SimResolver) -> None:
        await engine.restore()
        assert resolver.loads == []

    with_engine(tmp_path, {"a": {}}, body, restore=False)


def test_in_safe_mode_nothing_is_loaded_unasked(tmp_path: Path) -> None:
    warm = MemoryPolicy(warm=("w",))

    async def warmed(engine: Engine, resolver: SimResolver) -> None:
        engine.look_after()
        await until(lambda: states(engine) == {"w": "ready"})
        assert resolver.loads == ["w"]

    async def safe(engine: Engine, resolver: SimResolver) -> None:
        await engine.restore()
        await engine.load("b")  # the first load begins to look after them, too
        assert (engine.recovery.safe, engine._memory.missing()) == (True, [])
        assert resolver.loads == ["b"]

    scripts: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "w": {}}
    leave(tmp_path, "a", stops=1)
    with_engine(tmp_path, scripts, warmed, memory=warm, restore=False)
    leave(tmp_path, "a", stops=2)
    with_engine(tmp_path, scripts, safe, memory=warm)


def test_loads_that_crash_are_not_tried_for_ever(tmp_path: Path) -> None:
    async def body(engine: Engine, resolver: SimResolver) -> None:
        codes: list[str] = []
        for _ in range(4):
            codes.append(await code(engine))
            await until(lambda: states(engine).get("a") in (None, "quarantined"))
        assert codes == ["load_timeout"] * 2 + ["model_quarantined"] * 2
        assert resolver.loads == ["a"] * 3
        assert states(engine) == {"a": "quarantined"}
        assert await engine.reset("a") == ("a", True)
        assert (await code(engine), len(resolver.loads)) == ("load_timeout", 4)

    async def code(engine: Engine) -> str:
        try:
            await engine.load("a")
        except Exception as error:  # noqa: BLE001  (whatever it is)
            return getattr(error, "code", repr(error))
        return "loaded"

    options = {"max_restarts": 2, "load_timeout_s": 0.3}
    with_engine(tmp_path, {"a": {"load_ms": 60_000}}, body, **options)


def test_loads_that_are_refused_may_be_tried_for_ever(tmp_path: Path) -> None:
    async def body(engine: Engine, resolver: SimResolver) -> None:
        for _ in range(5):
            task = asyncio.ensure_future(engine.load("a"))
            await asyncio.wait([task])
            assert "bad weights" in str(task.exception())
            await until(lambda: not engine.status())
        assert resolver.loads == ["a"] * 5
        assert engine.recovery.health.knows("a") is False

    with_engine(tmp_path, {"a": {"fail_load": "bad weights"}}, body, max_restarts=1)


def test_a_restart_that_cannot_start_a_worker_holds_nothing_against_the_model(
    tmp_path: Path,
) -> None:
    async def body(engine: Engine, resolver: SimResolver) -> None:
        await engine.load("a")
        (tmp_path / "a.log.1" / "full").mkdir(parents=True)  # nowhere to put the last log
        os.kill(engine.status()[0].pid or 0, signal.SIGKILL)
        await until(lambda: not states(engine) or states(engine) == {"a": "quarantined"})
        assert states(engine) == {}
        (tmp_path / "a.log.1" / "full").rmdir()
        (tmp_path / "a.log.1").rmdir()
        await engine.load("a")

    with_engine(tmp_path, {"a": {}}, body, max_restarts=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_a_workers_start_holds_nothing_against_the_model(
    tmp_path: Path, number: signal.Signals
) -> None:
    async def body(engine: Engine, resolver: SimResolver) -> None:
        loading = asyncio.ensure_future(engine.load("a"))
        await until(lambda: engine.status() and engine.status()[0].pid)
        pid = engine.status()[0].pid or 0
        os.kill(pid, number)
        await (await loading).until_ready()  # it did not hear that, or another one was started
        assert not engine.recovery.health.knows("a")
        assert states(engine) == {"a": "ready"}

    with_engine(tmp_path, {"a": {}}, body, max_restarts=0)


def test_who_is_told_of_a_quarantine_can_end_it(tmp_path: Path) -> None:
    async def body(engine: Engine, resolver: SimResolver) -> None:
        runtime = await engine.load("a")
        prompt = Prompt(messages=(Message("user", "hi"),))
        asked = [asyncio.ensure_future(runtime.prepare(n, prompt)) for n in (1, 2)]
        await asyncio.wait(asked)
        codes = [getattr(one.exception(), "code", "") for one in asked]
        assert codes == ["prompt_too_slow", "model_quarantined"]
        resolver.scripts["a"] = {}
        assert await engine.reset("a") == ("a", True)
        await engine.load("a")
        assert states(engine) == {"a": "ready"}

    options: dict[str, Any] = {"prepare_timeout_s": 0.3, "max_restarts": 0}
    with_engine(tmp_path, {"a": {"hang_template": True}}, body, **options)


def test_who_ends_a_worker_on_purpose_holds_nothing_against_the_model(tmp_path: Path) -> None:
    async def body(engine: Engine, resolver: SimResolver) -> None:
        loading = asyncio.ensure_future(engine.load("slow"))
        await until(lambda: resolver.loads == ["slow"] and engine.status()[0].pid)
        await engine.unload("slow")
        await asyncio.wait([loading])
        assert getattr(loading.exception(), "code", "") == "model_unloaded"
        await engine.load("a")
        await engine.unload("a")
        await engine.load("a")
        await engine.close()
        assert not engine.recovery.health.knows("slow")
        assert not engine.recovery.health.knows("a")

    with_engine(tmp_path, {"a": {}, "slow": {"load_ms": 60_000}}, body)
    assert [path.name for path in tmp_path.glob("*.json")] == []
