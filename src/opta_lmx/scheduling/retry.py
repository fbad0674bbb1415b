"""How long to wait: an honest Retry-After from measured service, and restart backoff."""

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
_JITTER = 0.1
_GOLDEN = 0.618033988749895
"""Multiples of it, cut to their fractions, spread evenly however many there are."""


def retry_after(seconds: float, number: int) -> float:
    """A wait as it is told: within 1 to 60 s, and a little apart from the others'.

    Args:
        seconds: the estimate (s).
        number: counts those who are told; successive ones are spread over a tenth of the wait.
    """
    spread = 1.0 + _JITTER * (number * _GOLDEN % 1.0 - 0.5)
    return round(min(MAX_RETRY_S, max(MIN_RETRY_S, seconds * spread)), 2)


class RestartPolicy:
    """When a crashed worker starts again: exponential backoff, then no more.

    Args:
        backoff_s: wait before the first restart; doubles each time.
        backoff_max_s: longest wait.
        max_restarts: restarts allowed within `window_s`; one more means quarantine.
        window_s: crashes older than this are forgiven.

    Attributes:
        window_s: as told.
        crashes: when there were any of late, the oldest first (seconds, as told).
    """

    def __init__(
        self, *, backoff_s: float, backoff_max_s: float, max_restarts: int, window_s: float
    ) -> None:
        self._backoff_s = backoff_s
        self._backoff_max_s = backoff_max_s
        self._max_restarts = max_restarts
        self.window_s = window_s
        self.crashes: list[float] = []

    def after_crash(self, now: float) -> float | None:
        """Seconds to wait before restarting, or None when the model must be quarantined."""
        self.crashes = [*self.recent(now), now]
        return None if len(self.crashes) > self._max_restarts else self.pause_s(now)

    def pause_s(self, now: float) -> float:
        """Seconds to wait before a restart: the longer the more crashes there were of late."""
        count = len(self.recent(now))
        return min(self._backoff_max_s, self._backoff_s * 2 ** max(0, count - 1))

    def recent(self, now: float) -> list[float]:
        """Crashes that still count; one of the future is a clock that was set back."""
        return [when for when in self.crashes if 0 <= now - when < self.window_s]
