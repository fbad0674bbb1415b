"""The worker program with an engine whose steps take longer: `SLOWED_BY` times as long.

An engine computes its next step while this one's tokens are handed out, so a pause after each
step would vanish in that overlap. What is stretched is the time from one step's end to the
next's: a few steps in between are left alone, and tell how long a step of that width takes.
"""

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable

from opta_lmx.backends import worker
from opta_lmx.backends.frames import ModelKind, Step
from opta_lmx.backends.protocol import Engine

_ROUND = 8
_FREE = 2
"""Steps of a round that are left alone; only the last of them is not helped by a pause before."""
_KEPT = 15


class Stretch:
    """Says how long a step must take at least, so that on average it is `factor` times as long."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._number = 0
        self._owed_s = 0.0
        self._usual: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def least(self, took_s: float, rows: int, *, prefill: bool) -> float:
        """Seconds that this step shall last, from the end of the one before it.

        Args:
            took_s: what it took.
            rows: width of the batch.
            prefill: a piece of prompt was computed; nothing of that overlaps.
        """
        if prefill:
            return took_s * self._factor
        place = self._number % _ROUND
        self._number += 1
        if place == _FREE - 1:
            self._usual[rows].append(took_s)
        known = sorted(self._usual[rows])
        if not known:
            return took_s
        # What the steps left alone fall short of, the others make up for.
        self._owed_s += known[len(known) // 2] * self._factor
        lasts = took_s if place < _FREE else max(took_s, self._owed_s)
        self._owed_s = max(0.0, self._owed_s - lasts)
        return lasts


def slowed(step: Callable[[Engine], Step | None], factor: float) -> Callable[[Engine], Step | None]:
    """The engine's `step`, stretched. The time is burnt, as slow code would burn it."""
    stretch = Stretch(factor)
    last_end = 0.0

    def slow(engine: Engine) -> Step | None:
        nonlocal last_end
        begun = time.perf_counter()
        done = step(engine)
        now = time.perf_counter()
        if done is not None and (done.tokens or done.prefill):
            # After a rest there is no step before this one to count from.
            start = last_end if begun - last_end < now - begun else begun
            least = stretch.least(now - start, done.rows, prefill=bool(done.prefill))
            while time.perf_counter() - start < least:
                pass
        last_end = time.perf_counter()
        return done

    return slow


def main() -> None:
    """Slow the engine down, then be the worker."""
    factor = float(os.environ["SLOWED_BY"])
    create = worker.create_engine

    def create_slow(backend: str, kind: ModelKind = "chat") -> Engine:
        engine = create(backend, kind)
        family = type(engine)
        family.step = slowed(family.step, factor)  # type: ignore[method-assign]
        return engine

    worker.create_engine = create_slow
    worker.main()


if __name__ == "__main__":
    main()
