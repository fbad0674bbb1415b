"""Memory of the front and of the workers over time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from benchmarks import procs
from benchmarks.stats import median

EVERY_S = 1.0


class Sample(msgspec.Struct, frozen=True):
    """Resident bytes at a moment (s since the start): of the root process, and of its children."""

    at_s: float
    front: int
    workers: int


class Growth(msgspec.Struct, frozen=True):
    """Median memory of the middle and the last third of a run, in MB, and last over middle."""

    middle_mb: float
    last_mb: float
    ratio: float


def growth(samples: list[Sample], which: str) -> Growth:
    """Compare the thirds of a run; `which` is `front` or `workers`. NaN for too few samples."""
    third = len(samples) // 3
    values = [float(getattr(sample, which)) / 2**20 for sample in samples]
    middle, last = median(values[third : 2 * third]), median(values[2 * third :])
    return Growth(middle, last, last / middle if third and middle else float("nan"))


class MemoryWatch:
    """Samples the memory of a process tree until it is stopped.

    Args:
        pid: the server's root process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples: list[Sample] = []

    async def run(self) -> None:
        """Sample for ever."""
        start = time.monotonic()
        while True:
            front, workers = procs.resident(self._pid)
            self.samples.append(Sample(time.monotonic() - start, front, workers))
            await asyncio.sleep(EVERY_S)


@asynccontextmanager
async def watching(pid: int) -> AsyncGenerator[list[Sample]]:
    """Sample memory meanwhile."""
    watch = MemoryWatch(pid)
    task = asyncio.create_task(watch.run())
    try:
        yield watch.samples
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
