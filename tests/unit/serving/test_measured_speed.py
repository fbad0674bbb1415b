"""How fast weights are read, from what was measured: without keeping others waiting."""

import threading
from types import SimpleNamespace
from typing import Any

from opta_lmx.core.clock import SystemClock
from opta_lmx.serving.fitting import Fitting, Machine
from tests.support.asynchronous import in_loop


@in_loop
async def test_each_measured_model_is_looked_up_once_and_off_the_loop() -> None:
    seen: list[tuple[str, bool]] = []

    def get(name: str) -> object:
        seen.append((name, threading.current_thread() is threading.main_thread()))
        return object()

    def appetite(entry: object, backend: str) -> object:
        return SimpleNamespace(reserved=lambda: SimpleNamespace(weights=10))

    def result(model: str, speed: float, backend: str = "gguf") -> dict[str, Any]:
        asked = {"concurrency": 1}
        return {"model": model, "backend": backend, "asked": asked, "tokens_per_s": {"p50": speed}}

    async def results(model: str | None, most: int) -> list[dict[str, Any]]:
        of_one = [result("a", speed) for speed in (1.0, 2.0, 9.0)]
        return [*of_one, result("b:gguf", 3.0), result("c", 5.0, "mlx"), result("d", 0.0)]

    planner: Any = SimpleNamespace(store=SimpleNamespace(get=get), appetite=appetite)
    none: Any = None
    fitting = Fitting(planner, none, Machine(none, results, none), SystemClock())
    rate, how = await fitting._bytes_per_s("gguf")
    assert (rate, "benchmarks" in how) == (25.0, True)
    assert seen == [("a", False), ("b", False)]
