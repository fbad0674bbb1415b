"""Models whose workers crash too often: how often, why, and until when they are left alone.

What is counted are ends of workers and loads that hung or gave nonsense. A request that is wrong,
memory that is short, a file that is missing and a caller who leaves say nothing of a model.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.kept_file import KeptFile, read_kept
from opta_lmx.scheduling.retry import RestartPolicy

FILE = "health.json"
QUARANTINED = "model_quarantined"
FATAL_TO_LOAD = frozenset({"load_timeout", "load_crashed", "canary_failed"})
"""Codes of loads that failed by the model's own fault, which is not the same as being refused."""
_RETRY_S = 60.0
_MOST_WORDS = 500
"""Characters that are kept of a reason; engines may say much at their end."""


class Reason(msgspec.Struct, frozen=True):
    """Why a model is left alone; `since_ms` is UTC, `crashes` those that were counted."""

    code: str
    message: str
    since_ms: int
    crashes: int


class Condition(msgspec.Struct):
    """One model's health: the times of its latest crashes (UTC ms), and its quarantine if any."""

    backend: str = ""
    crashes_ms: list[int] = []
    reason: Reason | None = None


class Quarantined(msgspec.Struct, frozen=True):
    """A quarantined model for operators; `since` is UTC, in seconds."""

    model: str
    backend: str
    code: str
    message: str
    since: int
    crashes: int


class Health:
    """Every model's condition, and the file in which it outlives the server.

    Args:
        path: the file; None keeps it in memory only.
        policy: makes the rule for one model: when it restarts, and when not any more.
        clock: time.
        telemetry: where a quarantine is counted.
    """

    def __init__(
        self,
        path: Path | None,
        policy: Callable[[], RestartPolicy],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._telemetry = telemetry
        self._conditions = read_kept(path, dict[str, Condition], telemetry) or {}
        self._unblamed: dict[str, list[float]] = {}
        self._file = KeptFile(path, self._state, telemetry)

    @property
    def window_s(self) -> float:
        """Seconds after which a crash is forgiven."""
        return self._policy().window_s

    def crashed(self, model: str, backend: str, cause: LmxError) -> float | None:
        """Count a crash.

        Returns:
            Seconds after which the model may be tried again; None: it is quarantined from now on.
        """
        condition = self._condition(model, backend)
        policy, now_ms = self._policy(), self._clock.now_ms()
        policy.crashes = [when / 1000 for when in condition.crashes_ms]
        delay = policy.after_crash(now_ms / 1000)
        condition.crashes_ms = [round(when * 1000) for when in policy.crashes]
        if delay is None:
            self._quarantine(model, condition, cause)
        self._file.save()
        return None if delay is None else self.pause_s(model)

    def unblamed(self, model: str, *, forgive: bool) -> None:
        """Take in a crash that was none of the model's, but makes the pauses longer.

        `forgive`: nor was the latest one that was counted. A quarantine stays.
        """
        ends = self._unblamed.setdefault(model, [])
        ends.append(self._clock.now_ms() / 1000)
        condition = self._conditions.get(model)
        if not forgive or condition is None or condition.reason is not None:
            return
        if condition.crashes_ms:
            ends.append(condition.crashes_ms.pop() / 1000)
            if not condition.crashes_ms:
                del self._conditions[model]
            self._file.save()

    def pause_s(self, model: str) -> float:
        """Seconds after which a worker may start again that ended for no fault of the model's."""
        condition = self._conditions.get(model)
        policy = self._policy()
        crashes = [when / 1000 for when in condition.crashes_ms] if condition else []
        now_s = self._clock.now_ms() / 1000
        policy.crashes = self._unblamed.get(model, [])
        ends = policy.recent(now_s)
        if ends:
            self._unblamed[model] = ends
        else:
            self._unblamed.pop(model, None)
        policy.crashes = crashes + ends
        return policy.pause_s(now_s)

    def holds(self, model: str) -> bool:
        """True for a model that is quarantined."""
        condition = self._conditions.get(model)
        return condition is not None and condition.reason is not None

    def refuse(self, model: str) -> None:
        """Raise UNAVAILABLE `model_quarantined`, with reason and way out, for one that is."""
        condition = self._conditions.get(model)
        if condition is not None and condition.reason is not None:
            raise quarantined(model, condition.reason.message)

    def reset(self, model: str) -> Quarantined | None:
        """Forget a model's crashes and end its quarantine; what that was, if it was in one."""
        self._unblamed.pop(model, None)
        condition = self._conditions.pop(model, None)
        if condition is None:
            return None
        self._file.save()
        return _report(model, condition)

    def knows(self, model: str) -> bool:
        """True when anything is held against a model."""
        return model in self._conditions

    def known(self) -> list[str]:
        """All models that anything is held against."""
        return list(self._conditions)

    def quarantined(self) -> list[Quarantined]:
        """All that are, the first one first."""
        reports = (_report(model, one) for model, one in list(self._conditions.items()))
        return sorted((one for one in reports if one is not None), key=lambda one: one.since)

    async def saved(self) -> None:
        """Wait until all of it is on the disk."""
        await self._file.saved()

    def _condition(self, model: str, backend: str) -> Condition:
        condition = self._conditions.setdefault(model, Condition())
        condition.backend = backend
        return condition

    def _quarantine(self, model: str, condition: Condition, cause: LmxError) -> None:
        now_ms, crashes = self._clock.now_ms(), len(condition.crashes_ms)
        message = cause.message[:_MOST_WORDS]
        condition.reason = Reason(cause.code, message, now_ms, crashes)
        self._telemetry.count("model_quarantines_total", model=model, reason=cause.code)

    def _state(self) -> dict[str, Condition]:
        """What is still held against anybody."""
        now_s = self._clock.now_ms() / 1000
        for model, condition in list(self._conditions.items()):
            policy = self._policy()
            policy.crashes = [when / 1000 for when in condition.crashes_ms]
            if condition.reason is None and not policy.recent(now_s):
                del self._conditions[model]
        return self._conditions


def quarantined(model: str, reason: str) -> LmxError:
    """What is told to whoever asks for a quarantined model."""
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"Model '{model}' is quarantined: {reason} Once that is mended, let it in again with "
        f"POST /admin/models/{model}/reset or: opta-lmx reset {model}",
        code=QUARANTINED,
        param="model",
        retry_after=_RETRY_S,
    )


def _report(model: str, condition: Condition) -> Quarantined | None:
    reason = condition.reason
    if reason is None:
        return None
    since = reason.since_ms // 1000
    return Quarantined(model, condition.backend, reason.code, reason.message, since, reason.crashes)
