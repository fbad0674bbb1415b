"""What a model is said to take once it has come up."""

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from opta_lmx.engine.memory import measured_bytes
from opta_lmx.engine.process import resident_bytes
from opta_lmx.engine.runtime import ModelRuntime
from opta_lmx.scheduling.ledger import MemoryNeed


def runtime(backend: str, need: MemoryNeed, steps: int) -> ModelRuntime:
    """A model whose worker is this process."""
    worker: Any = SimpleNamespace(pid=os.getpid(), steps=steps)
    ready: Any = SimpleNamespace(weights_bytes=need.weights, kv_bytes=need.kv)
    plan: Any = SimpleNamespace(backend=backend, need=need)
    return cast("ModelRuntime", SimpleNamespace(plan=plan, worker=worker, ready=ready))


def test_caches_that_grow_are_added_to_what_an_unused_worker_takes() -> None:
    resident = resident_bytes(os.getpid())
    assert resident is not None
    need = MemoryNeed(0, kv=4 * resident)
    assert measured_bytes(runtime("mlx", need, 0)) == pytest.approx(5 * resident, rel=0.05)
    # One that has been used holds some of them already: they do not count twice.
    assert measured_bytes(runtime("mlx", need, 5)) == 4 * resident
    assert measured_bytes(runtime("mlx", MemoryNeed(0, kv=1), 5)) == pytest.approx(
        resident, rel=0.2
    )
    both = MemoryNeed(resident, kv=resident)
    assert measured_bytes(runtime("gguf", both, 5)) == 2 * resident
