"""The only room allowed to read a clock, sleep or draw random numbers."""

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Time as a port, so policies run in simulated time."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin, never going back."""
        ...

    def now_ms(self) -> int:
        """UTC wall time in integer milliseconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin."""
        return time.monotonic()

    def now_ms(self) -> int:
        """UTC milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        await asyncio.sleep(seconds)


def block_for(seconds: float) -> None:
    """Sleep on the calling thread; for worker threads only, never on the event loop."""
    time.sleep(seconds)


def system_random() -> random.Random:
    """A generator seeded by the operating system, for ids, jitter and default sampling seeds."""
    return random.SystemRandom()
