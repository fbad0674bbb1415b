"""Percentiles and medians over measured values."""

from collections.abc import Iterable, Sequence

import msgspec


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0 to 100), linear between neighbours; NaN when there are no values."""
    if not 0 <= q <= 100:
        raise ValueError(f"percentile {q} is not between 0 and 100")
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Iterable[float]) -> float:
    """The 50th percentile, NaN when there are no values."""
    return percentile(list(values), 50)


class Spread(msgspec.Struct, frozen=True):
    """How a set of durations (ms) is spread; every field but `count` is NaN when it is empty."""

    count: int
    p50: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of_seconds(cls, seconds: Sequence[float]) -> "Spread":
        """Summarise durations given in seconds."""
        ms = [value * 1000 for value in seconds]
        points = (percentile(ms, q) for q in (50, 95, 99, 100))
        return cls(len(ms), *points)
