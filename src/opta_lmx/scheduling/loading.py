"""How long a model will take to load, from what loading took before."""

import math
from collections.abc import Mapping

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.scheduling.retry import MAX_RETRY_S, MIN_RETRY_S

STARTUP_S = 2.0
"""A worker process up to the first byte of weights: interpreter and engine, measured 1 to 3 s."""
FIRST_BYTES_PER_S = 200e6
"""Assumed until loads were measured: from 20 MB/s (a small model, two cores) to GB/s seen."""
FIRST_CONVERTED_BYTES_PER_S = 30e6
"""GGUF converted for MLX on one slow core, until a conversion was measured."""
MAX_KNOWN = 200
_WEIGHT = 0.3
_OVERRUN = 0.25
_TELLING_BYTES = 2e9
"""Loads below this spend most of their time on other things than bytes: they count for less."""


class LoadWork(msgspec.Struct, frozen=True):
    """What loading means for a model: bytes of weights, and bytes to convert before (0: none)."""

    model: str
    weights_bytes: int = 0
    convert_bytes: int = 0


class LoadTimes(msgspec.Struct):
    """What loads have taken (s): the last one of each model, and rates (bytes/s) over all."""

    loads: dict[str, float] = {}
    bytes_per_s: float = FIRST_BYTES_PER_S
    converted_bytes_per_s: float = FIRST_CONVERTED_BYTES_PER_S

    def conversion_s(self, work: LoadWork) -> float:
        """Seconds that converting is expected to take."""
        return work.convert_bytes / self.converted_bytes_per_s

    def load_s(self, work: LoadWork) -> float:
        """Seconds that loading is expected to take, without any conversion."""
        measured = self.loads.get(work.model)
        return STARTUP_S + work.weights_bytes / self.bytes_per_s if measured is None else measured

    def record_load(self, work: LoadWork, seconds: float) -> None:
        """Add a load that has succeeded."""
        self.loads.pop(work.model, None)
        self.loads[work.model] = seconds
        while len(self.loads) > MAX_KNOWN:
            del self.loads[next(iter(self.loads))]
        if work.weights_bytes and seconds > 0:
            rate = work.weights_bytes / max(seconds - STARTUP_S, seconds / 4)
            weight = _WEIGHT * min(1.0, work.weights_bytes / _TELLING_BYTES)
            self.bytes_per_s += weight * (rate - self.bytes_per_s)

    def record_conversion(self, work: LoadWork, seconds: float) -> None:
        """Add a conversion that has succeeded."""
        if work.convert_bytes and seconds > 0:
            rate = work.convert_bytes / seconds
            self.converted_bytes_per_s += _WEIGHT * (rate - self.converted_bytes_per_s)


def sound_times(loads: Mapping[str, float], *rates: float) -> bool:
    """True when recorded times and rates can be believed: finite, and above zero for rates."""
    usable = all(math.isfinite(value) and value >= 0 for value in loads.values())
    return usable and all(math.isfinite(rate) and rate > 0 for rate in rates)


class ColdStart:
    """How far one model is from being ready, as far as can be told from outside."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._expected_s = 0.0

    def expect(self, seconds: float) -> None:
        """From now on, it should take this long."""
        self._began = self._clock.monotonic()
        self._expected_s = seconds

    def remaining_s(self) -> float:
        """Seconds left; what takes longer than expected is taken to need a quarter more yet."""
        elapsed = self._clock.monotonic() - self._began
        return max(self._expected_s - elapsed, _OVERRUN * elapsed)

    @property
    def retry_s(self) -> float:
        """When to come back, in seconds as told (1 to 60)."""
        return min(MAX_RETRY_S, max(MIN_RETRY_S, math.ceil(self.remaining_s())))

    def admit(self, model: str, wait_s: float) -> None:
        """Let a request wait for the model, unless that would take longer than `wait_s`.

        Raises:
            LmxError: UNAVAILABLE `model_loading`, to be retried when the model should be there
                (1 to 60 s).
        """
        remaining = self.remaining_s()
        if remaining > wait_s:
            raise LmxError(
                ErrorKind.UNAVAILABLE,
                f"The model '{model}' is being loaded and should be ready in about "
                f"{math.ceil(remaining)} s. Retry then.",
                code="model_loading",
                retry_after=self.retry_s,
            )
