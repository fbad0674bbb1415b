"""Probes with real worker processes: what comes of them, and that nothing of them is left."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.memory import MemoryPolicy
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.probing import Candidate, Prober
from opta_lmx.engine.residency import Engine
from opta_lmx.models.names import split_ref
from tests.support.asynchronous import in_loop
from tests.support.sim import SimResolver, engine_options
from tests.support.waiting import until

GB = 10**9
SCRIPTS: dict[str, dict[str, Any]] = {
    "good": {"needs_bytes": GB},
    "idle": {"needs_bytes": 3 * GB},
    "bad": {"fail_load": "no such tensor"},
    "dies": {"die_at_step": 1},
    "never": {"hang_template": True},
    "hangs": {"hang_at_step": 1},
    "huge": {"needs_bytes": 9 * GB},
    "vectors": {"kind": "embedding"},
    "scores": {"kind": "rerank"},
}


class ScriptedPlanner(SimResolver):
    """Scripted models as if they were stored GGUF files that only llama.cpp runs."""

    def __init__(self, log_dir: Path) -> None:
        super().__init__(log_dir, SCRIPTS)
        self.store = SimpleNamespace(get=self._entry)

    def _entry(self, name: str) -> Any:
        return SimpleNamespace(name=name, format="mlx", kind="chat")

    def reference(self, ref: str) -> Any:
        return SimpleNamespace(name=self.canonical(ref), backend=None)

    def refuse_leaving(self, name: str) -> None:
        return None

    def backend_of(self, entry: Any, asked: str | None) -> str:
        return asked or "gguf"

    def plan(self, ref: str, context: int | None = None) -> Plan:
        return super().plan(split_ref(ref)[0], context)


class Bench:
    """An engine of 4 GB, and a prober beside it."""

    def __init__(self, home: Path) -> None:
        options = msgspec.structs.replace(
            engine_options(), memory=MemoryPolicy(budget_bytes=4 * GB)
        )
        self.planner: Any = ScriptedPlanner(home / "logs")
        ports = (SystemClock(), NullTelemetry())
        self.engine = Engine(self.planner, options, *ports)
        self.prober = Prober(self.engine, self.planner, home, ports)

    async def probe(self, model: str, timeout_s: float = 30.0) -> Candidate:
        probe = await self.prober.probe(model, None, timeout_s)
        (candidate,) = probe.candidates
        assert (probe.recommended_backend is None) == (candidate.outcome != "passed")
        assert self.engine.find(model) is None or candidate.code == "in_service"
        assert not children()
        assert all("probe" not in line.model for line in self.engine.memory().models)
        return candidate


def children() -> list[str]:
    """Processes of ours that run a worker."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [pid for pid in path.read_text().split() if _is_worker(pid)]


def _is_worker(pid: str) -> bool:
    try:
        return b"opta_lmx.backends.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


pytestmark = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs Linux's /proc"
)


@in_loop
async def test_a_model_that_answers_passes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for model in ("good", "vectors", "scores"):
        found = await bench.probe(model)
        assert found.outcome == "passed"
        assert found.load_s is not None
        assert found.load_s > 0
        assert found.memory_bytes
    assert bench.engine.status() == []


@pytest.mark.parametrize(
    ("model", "code", "timeout_s"),
    [
        ("bad", "load_failed", 30),
        ("dies", "worker_died", 30),
        ("hangs", "probe_timeout", 3),
        ("never", "probe_timeout", 3),
    ],
)
def test_a_model_that_does_not_fails_with_the_reason(
    tmp_path: Path, model: str, code: str, timeout_s: float
) -> None:
    async def scene() -> None:
        found = await Bench(tmp_path).probe(model, timeout_s)
        assert (found.outcome, found.code) == ("failed", code)
        assert found.message

    asyncio.run(scene())


@in_loop
async def test_memory_is_reserved_as_for_a_load(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    huge = await bench.probe("huge")
    assert (huge.outcome, huge.code) == ("refused", "model_too_large")
    assert "9.0 GB" in str(huge.message)
    await bench.engine.load("idle")
    assert (await bench.prober.probe("good", None, 30)).recommended_backend
    assert bench.engine.find("idle") is not None
    SCRIPTS["good"]["needs_bytes"] = 2 * GB
    try:
        assert (await bench.prober.probe("good", None, 30)).recommended_backend
    finally:
        SCRIPTS["good"]["needs_bytes"] = GB
    assert bench.engine.find("idle") is None
    assert bench.engine.memory().committed_bytes == 0
    await bench.engine.close()


@in_loop
async def test_a_model_that_serves_is_not_loaded_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.engine.load("good")
    (found,) = (await bench.prober.probe("good", None, 30)).candidates
    assert (found.outcome, found.code) == ("passed", "in_service")
    assert bench.planner.loads == ["good"]
    await bench.engine.close()


@in_loop
async def test_one_probe_runs_at_a_time_and_ends_with_who_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = asyncio.create_task(bench.prober.probe("hangs", None, 60))
    await until(children)
    assert bench.prober.uses("hangs") == "being probed"
    assert bench.prober.uses("good") is None
    with pytest.raises(LmxError) as refused:
        await bench.prober.probe("good", None, 30)
    assert refused.value.code == "probe_running"
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert not children()
    assert bench.engine.memory().committed_bytes == 0
    assert (await bench.probe("good")).outcome == "passed"
