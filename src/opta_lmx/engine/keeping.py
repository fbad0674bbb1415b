"""Looks after the loaded models by itself: who was idle for too long, who is wanted soon."""

from collections.abc import Callable

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.memory import Memory
from opta_lmx.engine.runtime import Plan

TICK_S = 0.5
_AGAIN_S = 30.0
"""A model to be kept warm that could not be loaded is tried again after so long."""


class Hands(msgspec.Struct, frozen=True):
    """What the keeper may do: plan a model, start what was planned and reserved, unload one.

    Start and unload take the reason, for operators.
    """

    plan: Callable[[str], Plan]
    start: Callable[[Plan, str], object]
    evict: Callable[[str, str], object]


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
        self._tried_at: dict[str, float] = {}

    async def run(self) -> None:
        """Look, and look again, until cancelled."""
        while True:
            self.look()
            await self._clock.sleep(TICK_S)

    def look(self) -> None:
        """Unload who is to go, load at most one that is wanted."""
        for ref, reason in self._memory.surplus():
            self._hands.evict(ref, reason)
        if not self._prefetch():
            self._warm()

    def _prefetch(self) -> bool:
        chosen = self._memory.ahead()
        if chosen is None:
            return False
        try:
            plan = self._hands.plan(chosen.model)
        except LmxError as error:
            self._memory.forget(chosen.model)
            self._memory.gone(chosen.model)
            self._log(chosen.model, error)
            plan = None
        for ref in chosen.evict:
            self._hands.evict(ref, "prefetch")
        if plan is not None:
            self._hands.start(plan, "prefetch")
        return True

    def _warm(self) -> None:
        now = self._clock.monotonic()
        for ref in self._memory.missing():
            if now - self._tried_at.get(ref, -_AGAIN_S) < _AGAIN_S:
                continue
            self._tried_at[ref] = now
            try:
                plan = self._hands.plan(ref)
                self._memory.admit(plan, evict=False)
            except LmxError as error:
                self._log(ref, error)
                continue
            self._hands.start(plan, "warm")
            return

    def _log(self, ref: str, error: LmxError) -> None:
        self._telemetry.log(
            "warning", "model not loaded ahead", model=ref, code=error.code, reason=error.message
        )
