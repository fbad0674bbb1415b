"""How many of a model's requests run at once: the worker's slots, or fewer while it is slow."""

from opta_lmx.backends.frames import Step
from opta_lmx.scheduling.adaptive import AdaptiveLimit, StepSample
from opta_lmx.scheduling.fair_line import FairLine


class Throttle:
    """Measures steps, and holds the line to the limit that follows from them.

    What runs goes on: the line's limit follows a lower one only as far as requests end, so that
    meanwhile a row may still be exchanged for another.

    Args:
        line: is held to the limit.
        adaptive: False leaves all slots to the line, whatever steps take.
    """

    def __init__(self, line: FairLine, *, adaptive: bool) -> None:
        self._line = line
        self._slots = 0
        self._adaptive = AdaptiveLimit(1) if adaptive else None
        self.limit = 0
        """Requests that may run at once; 0 before a worker was there."""

    def resume(self, slots: int) -> None:
        """A worker is ready, with so many slots."""
        self._slots = self.limit = slots
        if self._adaptive is not None:
            self._adaptive.resize(slots)
            self._adaptive.restarted()
        self._line.set_limit(None)

    def stepped(self, step: Step, *, alone: bool) -> bool:
        """Take in a step; True when more may run than before.

        Args:
            step: the step.
            alone: nothing else ran on the device meanwhile.
        """
        if self._adaptive is None:
            return False
        decoded = not step.started and not step.prefill
        sample = StepSample(step.rows, step.ms, step.kv_bytes, alone and decoded)
        before, self.limit = self.limit, self._adaptive.step(sample)
        if self.limit == before:
            return False
        self._apply()
        return self.limit > before

    def freed(self) -> None:
        """A request has ended: whoever is next may have to wait for more of them to."""
        if self.limit < self._slots:
            self._apply()

    def _apply(self) -> None:
        most = max(self.limit, self._line.running)
        self._line.set_limit(None if most >= self._slots else most)
