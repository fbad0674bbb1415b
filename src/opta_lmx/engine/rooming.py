"""Keeps the line of models that wait for room in step with who waits for them."""

from collections.abc import Mapping

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.engine.parking import awaited, hold, users
from opta_lmx.engine.runtime import ModelRuntime
from opta_lmx.scheduling.ledger import MemoryLedger, MemoryNeed
from opta_lmx.scheduling.retry import MAX_RETRY_S
from opta_lmx.scheduling.swapping import Swap, Swaps

_FORGOTTEN_S = 2 * MAX_RETRY_S
"""For so long a model stays in line after the last who waited for it, or were to come back."""
_LATE_S = 5.0
"""Who was told to come back may be late by so much."""


class RoomLine:
    """The models that wait for room, and what is done with those that are in their way.

    Args:
        ledger: the machine's memory.
        swaps: whose turn it is.
        runtimes: the loaded models by id, as they come and go.
        clock: time.
    """

    def __init__(
        self,
        ledger: MemoryLedger,
        swaps: Swaps,
        runtimes: Mapping[str, ModelRuntime],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._swaps = swaps
        self._runtimes = runtimes
        self._clock = clock
        self._parked: set[str] = set()

    def admit(self, ref: str, need: MemoryNeed) -> tuple[str, ...] | None:
        """Reserve memory for a model, or let it get in line for it: None.

        Those named in return must be unloaded for it. Raises INSUFFICIENT_RESOURCES
        `model_too_large`.
        """
        now = self._clock.monotonic()
        try:
            return self._swaps.admit(ref, need, now)
        except LmxError as error:
            if error.code != "memory_busy":
                raise
        self._swaps.call(ref, need, now)
        return None

    def park(self, ref: str, need: MemoryNeed) -> None:
        """A model whose worker ends for others, and is waited for, gets in line again."""
        self._parked.add(ref)
        self._swaps.call(ref, need, self._clock.monotonic())

    def freed(self, ref: str) -> bool:
        """No worker of a model lives any more; True if one had to end for others."""
        if ref not in self._parked:
            return False
        self._parked.discard(ref)
        return self._ledger.left(ref)

    def withdraw(self, ref: str) -> None:
        """A model ends that may be in line."""
        if self._swaps.withdraw(ref):
            self._ledger.depart_unseen(ref)

    def wait_s(self, ref: str) -> float:
        """Seconds until a model in line may be loaded, as far as can be told."""
        return self._swaps.wait_s(ref, self._clock.monotonic())

    def look(self) -> None:
        """See for which models in line nobody waits, and to which somebody is to come back."""
        now, runtimes = self._clock.monotonic(), self._runtimes
        promised = {
            ref for ref, runtime in runtimes.items() if runtime.loading.told_until + _LATE_S > now
        }
        # One that is not there yet is about to be: somebody has asked for it this moment.
        waited = {ref for ref in self._swaps if ref not in runtimes or awaited(runtimes[ref])}
        self._swaps.promised = frozenset(promised)
        self._swaps.unattended = frozenset(self._swaps) - promised - waited

    def swap(self) -> Swap:
        """Let models begin nothing new whose turn is over, and let in one that finds room."""
        now = self._clock.monotonic()
        closed = self._swaps.closing(now)
        for ref, runtime in self._runtimes.items():
            hold(runtime, held=ref in closed)
            self._ledger.use(ref, *used(runtime, now))
        found = self._swaps.look(now)
        for ref, runtime in self._runtimes.items():
            if ref in self._swaps:
                runtime.loading.expect(self._swaps.wait_s(ref, now))
            elif ref in closed and ref not in found.evict:
                # It comes back after a turn of those for whom it goes.
                runtime.loading.expect(self._swaps.turn_s)
        return found

    def forgotten(self) -> list[str]:
        """Models in line that nobody has waited for, or was to come back to, in a while."""
        oldest = self._clock.monotonic() - _FORGOTTEN_S
        lines = ((ref, one) for ref, one in self._runtimes.items() if ref in self._swaps)
        return [
            ref
            for ref, one in lines
            if not awaited(one) and max(one.line.left_at, one.loading.told_until) <= oldest
        ]


def used(runtime: ModelRuntime, now: float) -> tuple[int, float]:
    """How many use a model or wait for it, and when it was last used (monotonic s)."""
    busy = users(runtime)
    return busy, now if busy else runtime.line.left_at
