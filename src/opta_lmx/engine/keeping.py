"""Looks after the loaded models by itself: who was idle for too long, who is wanted soon."""

import asyncio
import contextvars
import functools
from collections.abc import Callable

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.memory import Memory
from opta_lmx.engine.plan import Plan

TICK_S = 0.5
_SOON_S = 0.05
"""How often to look while a model waits for the room of others."""
_AGAIN_S = 30.0
"""A model to be kept warm that could not be loaded is tried again after so long."""


def unloaded(ref: str) -> LmxError:
    """What is told to who waits for a model that is unloaded."""
    return LmxError(ErrorKind.UNAVAILABLE, f"Model '{ref}' was unloaded.", code="model_unloaded")


class Hands(msgspec.Struct, frozen=True):
    """What the keeper may do: plan a model, start what was planned and reserved, unload one.

    Start and unload take the reason, for operators. `refuse` ends a model that waits for room and
    cannot have it.
    """

    plan: Callable[[str], Plan]
    start: Callable[[Plan, str], object]
    evict: Callable[[str, str], object]
    refuse: Callable[[str, LmxError], object]


class Keeper:
    """Acts on what the books say, every so often.

    Args:
        memory: the books.
        hands: what it may do.
        clock: time.
        telemetry: where failures are logged.
    """

    def __init__(self, memory: Memory, hands: Hands, clock: Clock, telemetry: Telemetry) -> None:
        self._memory = memory
        self._hands = hands
        self._clock = clock
        self._telemetry = telemetry
        self._task: asyncio.Task[None] | None = None
        self._tried_at: dict[str, float] = {}
        self._told: dict[str, str] = {}

    def begin(self) -> None:
        """Look, and look again, until `end`; nothing changes if that has begun."""
        if self._task is None or self._task.done():
            # An empty context: the log lines belong to no single request.
            self._task = asyncio.create_task(
                self._run(), name="memory keeper", context=contextvars.Context()
            )
            self._task.add_done_callback(self._ended)

    async def end(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        """An unforeseen failure of our own: say so; the next `begin` begins anew."""
        if not task.cancelled() and (cause := task.exception()) is not None:
            self._telemetry.log("error", "memory keeper failed", exc_info=cause)

    async def _run(self) -> None:
        while True:
            self.look()
            await self._clock.sleep(_SOON_S if self._memory.in_line else TICK_S)

    def look(self) -> None:
        """Unload who is to go, load at most one that is wanted. What fails is logged."""
        self._attempt("", self._look)

    def _look(self) -> None:
        for ref, reason in self._memory.surplus():
            self._evict(ref, reason)
        self._swap()
        if not self._prefetch():
            self._warm()

    def _swap(self) -> None:
        for ref in self._memory.forgotten():
            self._hands.refuse(ref, unloaded(ref))
        found = self._memory.swap()
        for ref in found.evict:
            self._evict(ref, "swap")
        if found.admitted is not None and found.refused is not None:
            self._hands.refuse(found.admitted, found.refused)

    def _prefetch(self) -> bool:
        chosen = self._memory.ahead()
        if chosen is None:
            return False
        # First those that go: they are off the books already, whatever becomes of the new one.
        for ref in chosen.evict:
            self._evict(ref, "prefetch")
        if not self._attempt(chosen.model, lambda: self._load(chosen.model, "prefetch")):
            self._memory.forget(chosen.model)
            self._memory.withdraw(chosen.model)
        return True

    def _warm(self) -> None:
        now = self._clock.monotonic()
        for ref in self._memory.missing():
            if now - self._tried_at.get(ref, -_AGAIN_S) < _AGAIN_S:
                continue
            self._tried_at[ref] = now
            if self._attempt(ref, functools.partial(self._load, ref, "warm")):
                return
            self._memory.withdraw(ref)

    def _load(self, ref: str, reason: str) -> None:
        """Plan a model, reserve memory where that has not been done, and start it."""
        plan = self._hands.plan(ref)
        self._memory.admit_ahead(plan)
        self._hands.start(plan, reason)

    def _evict(self, ref: str, reason: str) -> None:
        self._attempt(ref, functools.partial(self._hands.evict, ref, reason))

    def _attempt(self, ref: str, act: Callable[[], object]) -> bool:
        """Do something; False, and the failure logged, where it fails.

        What is tried again and fails for the same reason is logged once.
        """
        try:
            act()
        except Exception as cause:  # noqa: BLE001  (boundary: one failure must not end the keeping)
            self._tell(ref, cause)
            return False
        self._told.pop(ref, None)
        return True

    def _tell(self, ref: str, cause: Exception) -> None:
        reason = cause.code if isinstance(cause, LmxError) else repr(cause)
        if self._told.get(ref) == reason:
            return
        self._told[ref] = reason
        log = functools.partial(self._telemetry.log, model=ref)
        if isinstance(cause, LmxError):
            log("warning", "model not loaded ahead", code=cause.code, reason=cause.message)
        else:
            log("error", "memory keeper failed", exc_info=cause)
