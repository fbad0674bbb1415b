"""Engines driven step by step with the tiny models."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opta_lmx.backends.frames import (
    Cache,
    CacheChanged,
    Cancel,
    Fault,
    Kept,
    Load,
    Ready,
    Released,
    Started,
    Step,
    Submit,
    ToFront,
    TokenOut,
    Tune,
)
from opta_lmx.backends.protocol import PreparedPrompt
from opta_lmx.core.types import Prompt, SamplingParams
from tests.integration.mlx.child import Child
from tests.support.tiny import tiny_llama, tiny_qwen2, tiny_sliding
from tests.support.tiny_hybrid import tiny_hybrid

GREEDY = SamplingParams(temperature=0.0)
MODELS: dict[str, Callable[[], Path]] = {
    "llama": tiny_llama,
    "sliding": tiny_sliding,
    "qwen2": tiny_qwen2,
    "hybrid": tiny_hybrid,
}


class Driver:
    """Plays the worker program: commands in, steps out, everything recorded."""

    def __init__(self, child: Child, folder: Path, **load: object) -> None:
        self._child = child
        self.frames: list[ToFront] = []
        spec = Load(model="tiny", backend="mlx", path=str(folder), **load)  # type: ignore[arg-type]
        self.ready: Ready
        self._number, self.ready, self.load_frames = child.call("load", spec)
        self.busy = False
        self.forget()

    def forget(self) -> None:
        """Start a new record; the engine must be idle."""
        assert not self.busy
        self.frames.clear()
        self.steps: list[Step] = []
        self.tokens: dict[int, list[TokenOut]] = {}
        self.released_at: dict[int, int] = {}

    def submit(
        self,
        request: int,
        ids: tuple[int, ...],
        max_tokens: int = 24,
        sampling: SamplingParams = GREEDY,
        top: int | None = None,
        **more: object,
    ) -> None:
        """`more`: whatever else `Submit` has."""
        self._command("submit", Submit(request, ids, sampling, max_tokens, top, **more))  # type: ignore[arg-type]

    def cancel(self, request: int, keep: int | None = None, *, hold: bool = False) -> None:
        self._command("cancel", Cancel(request, keep, hold))

    def cache(self, **orders: object) -> None:
        """Orders as in `Cache`."""
        self._command("cache", Cache(**orders))  # type: ignore[arg-type]

    def inject(self, fault: str, at: int) -> None:
        """Have something raise in the child; see `Holder.inject`."""
        self._child.call("inject", self._number, fault, at)

    def tune(self, stall_target_ms: int) -> None:
        self._command("tune", Tune(stall_target_ms))

    def retried(self) -> tuple[list[object], list[object]]:
        """See `Holder.retried`."""
        pace: tuple[list[object], list[object]] = self._child.call("retried", self._number)
        return pace

    def unload(self) -> None:
        """Give the model's memory back."""
        self._child.call("unload", self._number)

    def prepare(self, prompt: Prompt) -> tuple[int, ...]:
        prepared: PreparedPrompt = self._child.call("prepare", self._number, prompt)
        return prepared.ids

    def step(self) -> Step | None:
        step: Step | None
        step, self.busy, frames = self._child.call("step", self._number)
        self.frames += frames
        if step is not None:
            self.steps.append(step)
            for token in step.tokens:
                self.tokens.setdefault(token.request, []).append(token)
        for request in self.released:
            self.released_at.setdefault(request, len(self.steps))
        return step

    def timed(self) -> tuple[int, float, float]:
        """Run to the end without looking on; return tokens, wall and processor seconds."""
        result: tuple[int, float, float] = self._child.call("timed", self._number)
        self.busy = False
        return result

    def _command(self, name: str, frame: object) -> None:
        self.busy, frames = self._child.call("command", self._number, name, frame)
        self.frames += frames

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Step until idle or `until`."""
        while self.busy and not until():
            self.step()

    def text(self, request: int) -> bytes:
        return b"".join(token.piece for token in self.tokens.get(request, []))

    def ids(self, request: int) -> list[int]:
        return [token.id for token in self.tokens.get(request, [])]

    def alone(self, ids: tuple[int, ...], max_tokens: int = 24, **options: object) -> list[int]:
        """Token ids of a request that has the engine to itself."""
        self.forget()
        self.submit(0, ids, max_tokens, **options)  # type: ignore[arg-type]
        self.run()
        result = self.ids(0)
        self.forget()
        return result

    @property
    def released(self) -> list[int]:
        return [frame.id for frame in self.frames if isinstance(frame, Released)]

    @property
    def kept(self) -> dict[int, Kept]:
        """Every state that was ever kept, by handle."""
        changes = [frame for frame in self.frames if isinstance(frame, CacheChanged)]
        return {kept.handle: kept for change in changes for kept in change.kept}

    @property
    def lost(self) -> list[int]:
        """Handles that were lost, in order."""
        changes = [frame for frame in self.frames if isinstance(frame, CacheChanged)]
        return [handle for change in changes for handle in change.lost]

    @property
    def cached(self) -> dict[int, int]:
        """Cached tokens of each request that started."""
        return {started.request: started.cached for started in self.started}

    @property
    def faults(self) -> list[Fault]:
        return [frame for frame in self.frames if isinstance(frame, Fault)]

    @property
    def started(self) -> list[Started]:
        return [started for step in self.steps for started in step.started]


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Deterministic token ids of ordinary text tokens."""
    return tuple(300 + (seed * 977 + i * i * 31 + i * 7) % 3700 for i in range(length))


@pytest.fixture(scope="session")
def child() -> Iterator[Child]:
    """One process for all engines of the session; kernels it compiles are kept between runs."""
    process = Child(Path(__file__).parents[3] / ".cache" / "mlx")
    yield process
    process.close()


@pytest.fixture(scope="session")
def drivers(child: Child) -> Callable[[str], Driver]:
    """One loaded engine per tiny model for the whole session."""
    loaded: dict[str, Driver] = {}

    def get(name: str) -> Driver:
        if name not in loaded:
            loaded[name] = Driver(child, MODELS[name]())
        loaded[name].forget()
        loaded[name].tune(250)
        return loaded[name]

    return get


@pytest.fixture
def driver(drivers: Callable[[str], Driver]) -> Driver:
    """The tiny Llama, idle."""
    return drivers("llama")
