"""How long an engine that has rested waits for requests that are almost there.

Clients of a fleet often ask at one moment, and their prompts are prepared one after the other.
A step begun with the first of them makes all others wait for its end, and their prompts and
answers then take more steps than together. So the first waits, briefly, for those on their way.
"""

import math
import threading

from opta_lmx.core.clock import Clock

LONGEST_S = 0.015
"""About what preparing eight prompts takes, and less than most prompts take to process (s)."""


class Gathering:
    """Requests whose prompts have come and that are not submitted yet; safe for threads.

    Args:
        clock: time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._coming: dict[int, float] = {}

    def expect(self, request: int) -> None:
        """A prompt has come that is to be prepared."""
        now = self._clock.monotonic()
        with self._lock:
            self._give_up(now)
            self._coming[request] = now

    def settle(self, request: int) -> None:
        """It was submitted, or never will be."""
        with self._lock:
            self._coming.pop(request, None)

    def left_s(self, since: float) -> float:
        """Seconds to wait yet for others; 0 when none is on its way.

        Args:
            since: when the first request came that could start (s).
        """
        now = self._clock.monotonic()
        with self._lock:
            self._give_up(now)
            latest = min(since, max(self._coming.values(), default=-math.inf))
        return max(0.0, latest + LONGEST_S - now)

    def _give_up(self, now: float) -> None:
        """Some prompts are only counted, and some requests wait in line: their time is over."""
        while self._coming:
            request, came = next(iter(self._coming.items()))
            if now - came < LONGEST_S:
                return
            del self._coming[request]
