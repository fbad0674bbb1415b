"""Sees a model's workers end, and those that must be ended."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from opta_lmx.backends.shortage import OUT_OF_MEMORY
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.types import Prompt
from opta_lmx.engine.settle import settle
from opta_lmx.engine.vitals import ended
from opta_lmx.engine.worker import WatchdogLimits, WorkerHandle

_Result = TypeVar("_Result")
_LOOK_S = 0.25
_ORDINARY_BYTES = 65_536
_ORDINARY_TURNS = 64


class Watch:
    """Waits for the end of a model's workers, one after another.

    Args:
        model: its id, for errors.
        limits: how long a worker may be silent.
    """

    def __init__(self, model: str, limits: WatchdogLimits) -> None:
        self._model = model
        self._limits = limits
        self._over = asyncio.Event()
        self._slow: Prompt | None = None
        self._slow_s = 0.0
        self._parked = asyncio.Event()

    def begin(self) -> None:
        """The next worker is about to start."""
        self._over.clear()
        self._parked.clear()
        self._slow = None

    def died(self) -> None:
        """The worker is gone."""
        self._over.set()

    def park(self) -> None:
        """The worker is to end in peace; another one comes later."""
        self._parked.set()
        self._over.set()

    @property
    def parked(self) -> bool:
        """True when the worker is to end in peace, or not to come up."""
        return self._parked.is_set()

    async def unless_parked(self, work: Coroutine[Any, Any, _Result]) -> _Result | None:
        """Await work towards the next worker; it is cancelled when that is to come later: None."""
        task, parked = asyncio.ensure_future(work), asyncio.ensure_future(self._parked.wait())
        try:
            await asyncio.wait((task, parked), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            parked.cancel()
            await settle(_ends(task, parked))

    def too_slow(self, prompt: Prompt, limit_s: float) -> LmxError:
        """A prompt was not prepared within `limit_s` seconds: the worker must go.

        Returns:
            What its caller is told.
        """
        self._slow, self._slow_s = prompt, limit_s
        self._over.set()
        return invalid(
            f"Rendering and tokenizing this prompt took more than {limit_s:g} s.",
            param="messages" if prompt.text is None and prompt.ids is None else "prompt",
            code="prompt_too_slow",
        )

    async def until_over(self, worker: WorkerHandle, look: Callable[[], None]) -> str:
        """Return when the worker has `died`, or must end: it `stalled`, is `slow`, or `parked`.

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
        if self._parked.is_set():
            return "parked"
        return "died" if self._slow is None else "slow"

    def cause(self, how: str, worker: WorkerHandle) -> LmxError | None:
        """What the end of a worker says against the model; None where it says nothing."""
        if self._slow is not None:
            return _endless_template(self._slow_s) if _is_ordinary(self._slow) else None
        fault = worker.fault
        if fault is not None and fault.code == OUT_OF_MEMORY:
            return None
        return ended(self._model, how, worker.exit_status, "" if fault is None else fault.message)


async def _ends(*tasks: asyncio.Future[Any]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _is_ordinary(prompt: Prompt) -> bool:
    """True for one that any template gets through at once, so that its caller is not to blame."""
    if prompt.template_kwargs or len(prompt.messages) > _ORDINARY_TURNS:
        return False
    return len(msgspec.msgpack.encode(prompt)) <= _ORDINARY_BYTES


def _endless_template(limit_s: float) -> LmxError:
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"Its chat template did not finish a short prompt within {limit_s:g} s.",
        code="template_endless",
    )
