"""Brings one model's workers up, and tells beforehand how long that takes."""

import asyncio
import math

from opta_lmx.backends.frames import Load, Ready
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.settle import settle
from opta_lmx.engine.worker import WorkerHandle
from opta_lmx.scheduling.loading import ColdStart


class Loading:
    """One model's loads: what they are expected to take, and what they took.

    Args:
        plan: what to load.
        timeout_s: longest time a worker may take to load (s).
        ports: clock, telemetry, and the times that loads have taken.

    Attributes:
        last_s: what the last load took (s); 0 before the first.
        told_until: when all have come back who were told to (monotonic s).
    """

    def __init__(
        self, plan: Plan, timeout_s: float, ports: tuple[Clock, Telemetry, LoadBook]
    ) -> None:
        self._plan = plan
        self._timeout_s = timeout_s
        self._clock, self._telemetry, self._book = ports
        self._cold = ColdStart(self._clock)
        self._loaded = self._prepared = False
        self.last_s = 0.0
        self.told_until = -math.inf
        self.expect()

    def expect(self, before_s: float = 0.0) -> None:
        """From now on it should take a load, and `before_s` seconds before that.

        What must be done first is counted until it has been done.
        """
        times, work = self._book.times, self._plan.work
        first_s = 0.0 if self._prepared else times.conversion_s(work)
        self._cold.expect(before_s + first_s + times.load_s(work))

    def admit(self, wait_s: float) -> None:
        """Let a request wait for the model. Raises what `ColdStart.admit` raises."""
        try:
            self._cold.admit(self._plan.ref, wait_s)
        except LmxError as error:
            self.tell(error.retry_after or 0.0)
            raise

    @property
    def retry_s(self) -> float:
        """Seconds after which who has waited in vain for the model may come back."""
        return self._cold.retry_s

    def tell(self, seconds: float) -> float:
        """Somebody is told to come back after so long, which is returned."""
        self.told_until = max(self.told_until, self._clock.monotonic() + seconds)
        return seconds

    async def prepare(self) -> Load:
        """Wait for room, and do what must be done before, a conversion above all.

        That is timed for the next time, unless the model has been loaded already.
        """
        if self._plan.room is not None:
            await self._plan.room()
            self.expect()
        began = self._clock.monotonic()
        load = await self._plan.prepare()
        if not self._loaded:
            self._book.converted(self._plan.work, self._clock.monotonic() - began)
        self._prepared = True
        self.expect()
        return load

    async def start(self, worker: WorkerHandle) -> Ready:
        """Start a worker and load the model.

        Raises:
            LmxError: UNAVAILABLE `load_timeout`, `load_crashed`, `load_failed`; what else
                `WorkerHandle.start` raises.
        """
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                ready = await worker.start(self._plan.environment, self._plan.log_file)
        except TimeoutError:
            raise _load_timeout(self._plan.ref) from None
        except OSError as error:
            raise _cannot_start(self._plan.ref, error) from None
        except LmxError as error:
            if worker.refused and self._plan.refuse is not None:
                self._plan.refuse(error)
            raise
        self._loaded, self.last_s = True, self._clock.monotonic() - began
        self._telemetry.observe("model_load_seconds", self.last_s, model=self._plan.ref)
        return ready

    async def note(self) -> None:
        """Keep what the last load took, for the next time."""
        await settle(self._book.loaded(self._plan.work, self.last_s))


def _load_timeout(model: str) -> LmxError:
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"Model '{model}' took too long to load.",
        code="load_timeout",
        param="model",
    )


def _cannot_start(model: str, error: OSError) -> LmxError:
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"The worker of model '{model}' cannot start: {error.strerror or 'unknown error'}",
        code="load_failed",
        param="model",
    )
