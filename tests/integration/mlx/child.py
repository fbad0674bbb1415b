"""A process that holds MLX engines and does as it is told: how the tests get a fast BLAS.

Calls come in on standard input and answers go out on standard output, both pickled.
"""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.frames import Load, ToFront
from opta_lmx.backends.mlx.engine import create
from opta_lmx.backends.mlx.environment import worker_environment
from opta_lmx.backends.protocol import Engine, LoadError, Texts
from tests.integration.mlx.faults import inject


class Child:
    """The parent's end: starts the process and calls it."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | worker_environment(folder).variables
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.mlx.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).resolve().parents[3],
        )

    def call(self, name: str, *args: Any) -> Any:
        """Run one of `Holder`'s methods there; its exceptions are raised here."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((name, args), self._process.stdin)
        self._process.stdin.flush()
        result = pickle.load(self._process.stdout)
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


class Holder:
    """The child's end: engines by number."""

    def __init__(self) -> None:
        self._engines: dict[int, tuple[Engine, Texts, list[ToFront]]] = {}
        self._count = 0
        self._patch = pytest.MonkeyPatch()

    def load(self, spec: Load) -> tuple[int, Any, list[ToFront]]:
        engine, frames = create(), list[ToFront]()
        ready, texts = engine.load(spec, frames.append)
        self._count += 1
        self._engines[self._count] = engine, texts, frames
        return self._count, ready, self._taken(frames)

    def refused_after(self, spec: Load) -> tuple[str, int]:
        """Fail to load; return why, and the bytes of memory that it had taken by then."""
        import mlx.core as mx

        mx.reset_peak_memory()
        before = mx.get_active_memory()
        with pytest.raises(LoadError) as caught:
            create().load(spec, lambda _: None)
        return caught.value.code, mx.get_peak_memory() - before

    def retried(self, number: int) -> tuple[list[Any], list[Any]]:
        """Try an engine's adapters once more; return its pace before and after."""
        from opta_lmx.backends.mlx import engine as module

        engine: Any = self._engines[number][0]
        batch = engine._batch

        def pace() -> list[Any]:
            return [id(batch.pace), vars(batch.pace).copy(), vars(batch.pace.cost).copy()]

        before = pace()
        module._try_adapters(batch, lambda _: None)
        self._engines[number][2].clear()
        return before, pace()

    def unload(self, number: int) -> None:
        del self._engines[number]

    def command(self, number: int, name: str, frame: Any) -> tuple[bool, list[ToFront]]:
        engine, _, frames = self._engines[number]
        getattr(engine, name)(frame)
        return engine.busy, self._taken(frames)

    def step(self, number: int) -> tuple[Any, bool, list[ToFront]]:
        engine, _, frames = self._engines[number]
        step = engine.step()
        return step, engine.busy, self._taken(frames)

    def timed(self, number: int) -> tuple[int, float, float]:
        """Run to the end; return tokens, seconds on the clock, and seconds of processor time."""
        engine = self._engines[number][0]
        tokens, clock, processor = 0, time.perf_counter(), time.process_time()
        while (step := engine.step()) is not None:
            tokens += len(step.tokens)
        return tokens, time.perf_counter() - clock, time.process_time() - processor

    def inject(self, number: int, fault: str, at: int) -> None:
        """Break something (`faults.inject`) in place of what was broken before."""
        self._patch.undo()
        inject(self._patch, fault, at, self._engines[number][0])

    def prepare(self, number: int, prompt: Any) -> Any:
        return self._engines[number][1].prepare(prompt)

    def reference(
        self, folder: str, adapter: str | None, ids: tuple[int, ...], count: int
    ) -> list[int]:
        """What mlx-lm itself makes of a prompt, greedily, with its own loading of an adapter."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.utils import load_model

        model: Any = load_model(Path(folder))[0]
        if adapter is not None:
            from mlx_lm.tuner.utils import load_adapters

            load_adapters(model, adapter)
            model.eval()
        steps = generate_step(mx.array(ids), model, max_tokens=count)
        return [int(token) for token, _ in steps]

    def quantise(self, source: str, out: str) -> None:
        """Pack a model's weights, 4 bits each."""
        from opta_lmx.backends.quantize.folder import quantise
        from opta_lmx.backends.quantize.rules import scheme

        quantise(Path(source), Path(out), scheme("affine", 4, 64), lambda *_: None)

    def _taken(self, frames: list[ToFront]) -> list[ToFront]:
        taken = list(frames)
        frames.clear()
        return taken


def main() -> None:
    """Serve calls until standard input ends."""
    holder = Holder()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print must not mix with answers
    while True:
        try:
            name, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            os._exit(0)
        try:
            result = getattr(holder, name)(*args)
        except Exception as error:  # noqa: BLE001  (raised again in the parent)
            result = error
        pickle.dump(result, answers)
        answers.flush()


if __name__ == "__main__":
    main()
