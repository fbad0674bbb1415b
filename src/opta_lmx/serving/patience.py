"""How long a call may wait for its model and its turn, all told."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError


class Patience:
    """One deadline for all waiting of a call, counted from its arrival.

    Args:
        deadline_s: how long it may wait.
        retry_after: tells when a caller whose time is up may come back (s).
        clock: time.
    """

    def __init__(self, deadline_s: float, retry_after: Callable[[], float], clock: Clock) -> None:
        self._deadline_s = deadline_s
        self._retry_after = retry_after
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
                retry_after=self._retry_after(),
            ) from None
