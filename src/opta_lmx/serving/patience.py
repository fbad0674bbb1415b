"""How long a call may wait for its model and its turn, all told."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.scheduling.line import WaitingLine


class Patience:
    """One deadline for all waiting of a call, counted from its arrival.

    Args:
        deadline_s: how long it may wait.
        line: tells a refused caller when to come back.
        clock: time.
    """

    def __init__(self, deadline_s: float, line: WaitingLine, clock: Clock) -> None:
        self._deadline_s = deadline_s
        self._line = line
        self._clock = clock
        self._began = clock.monotonic()

    @property
    def began_at(self) -> float:
        """When the call arrived, on the clock's monotonic time (s)."""
        return self._began

    @property
    def waited_s(self) -> float:
        """Seconds since the call arrived."""
        return self._clock.monotonic() - self._began

    @contextlib.asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """Bound what is awaited inside. Raises UNAVAILABLE `queue_timeout`."""
        try:
            async with asyncio.timeout(self._deadline_s - self.waited_s):
                yield
        except TimeoutError:
            raise LmxError(
                ErrorKind.UNAVAILABLE,
                "The request waited too long for its turn.",
                code="queue_timeout",
                retry_after=self._line.retry_after(),
            ) from None
