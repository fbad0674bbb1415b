"""Sees a model's workers end, and the ends after which there is no other."""

import asyncio
from collections.abc import Callable

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.worker import WatchdogLimits, WorkerHandle

_LOOK_S = 0.25
_QUARANTINE_RETRY_S = 60.0


class Watch:
    """Waits for the end of a model's workers, one after another.

    Args:
        model: its id, for errors.
        limits: how long a worker may be silent.

    Attributes:
        verdict: why the model is to be quarantined; None while it is not.
    """

    def __init__(self, model: str, limits: WatchdogLimits) -> None:
        self._model = model
        self._limits = limits
        self._over = asyncio.Event()
        self.verdict: LmxError | None = None

    def begin(self) -> None:
        """The next worker is about to start."""
        self._over.clear()

    def died(self) -> None:
        """The worker is gone."""
        self._over.set()

    def condemn(self, limit_s: float) -> LmxError:
        """A prompt was not rendered within `limit_s` seconds: the worker must go; the verdict."""
        self.verdict = _endless_template(self._model, limit_s)
        self._over.set()
        return self.verdict

    async def until_over(self, worker: WorkerHandle, look: Callable[[], None]) -> str:
        """Return, with the reason, when the worker has died or must be killed.

        `look` is called every so often meanwhile.
        """
        while not self._over.is_set():
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._over.wait()
            except TimeoutError:
                look()
                if worker.overdue(self._limits):
                    return "stalled"
        return "template did not end" if self.verdict is not None else "died"


def keeps_crashing(model: str) -> LmxError:
    """Why a model that crashed too often is quarantined."""
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"Model '{model}' keeps crashing and is quarantined; unload and load it again.",
        code="model_quarantined",
        retry_after=_QUARANTINE_RETRY_S,
    )


def _endless_template(model: str, limit_s: float) -> LmxError:
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"The chat template of model '{model}' did not finish within {limit_s:g} s; "
        "the model is quarantined.",
        code="model_quarantined",
        retry_after=_QUARANTINE_RETRY_S,
    )
