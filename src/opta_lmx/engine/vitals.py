"""One model's signs of health, told by its runtime to the books that outlive it."""

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.quarantine import FATAL_TO_LOAD, QUARANTINED, Health, quarantined
from opta_lmx.engine.restoring import Journal
from opta_lmx.engine.suspects import Verdict

_MOST_WORDS = 200
"""Characters of a worker's last words that are told on."""


class Vitals:
    """What its runtime tells of one model.

    Args:
        plan: the model.
        health: counts its crashes.
        journal: notes that it is being loaded.
    """

    def __init__(self, plan: Plan, health: Health, journal: Journal) -> None:
        self._model, self._backend = plan.ref, plan.backend
        self._health = health
        self._journal = journal
        self._counted = False

    @property
    def window_s(self) -> float:
        """Seconds for which what went wrong is remembered."""
        return self._health.window_s

    async def loading(self) -> None:
        """A worker is about to load it: should the server be killed meanwhile, that is known."""
        await self._journal.loading(self._model)

    def loaded(self) -> None:
        """It is loaded."""
        self._journal.settled(self._model)

    def ended(self, cause: LmxError | None, verdict: Verdict = Verdict.OPEN) -> float:
        """A worker ended: seconds after which to start the next.

        Args:
            cause: what is counted against the model; None: nothing is, nor is it while the server
                stops, since what tells that to stop may tell its workers, too.
            verdict: what the requests in it say of that; one that kills a worker, and then the
                next, counts as no crash of a model that serves others.

        Raises:
            LmxError: UNAVAILABLE `model_quarantined`: there is no next one.
        """
        self._journal.settled(self._model)
        counts = cause is not None and not self._journal.frozen
        if counts and verdict is Verdict.REQUEST:
            self._health.unblamed(self._model, forgive=self._counted)
            counts = False
        self._counted = counts
        if cause is None or not counts:
            return self._health.pause_s(self._model)
        delay = self._health.crashed(self._model, self._backend, cause)
        if delay is None:
            raise quarantined(self._model, cause.message)
        return delay

    def not_loaded(self, cause: LmxError) -> LmxError:
        """A load failed, and is not tried again by itself; what is to be told of it.

        It is counted where it is the model's own fault.
        """
        self._journal.settled(self._model)
        if cause.code in FATAL_TO_LOAD:
            try:
                self.ended(cause)
            except LmxError as quarantine:
                return quarantine
        return cause


def ended(model: str, how: str, status: int | None, fault: str = "") -> LmxError:
    """Why a model's worker is gone: `died` or `stalled`, its exit status, and its last words."""
    code = "worker_stalled" if how == "stalled" else "worker_died"
    words = "was silent for too long" if how == "stalled" else f"ended unexpectedly{_told(status)}"
    words = f"{words}: {fault[:_MOST_WORDS]}" if fault else words
    return LmxError(ErrorKind.INTERNAL, f"The worker of model '{model}' {words}.", code=code)


def interrupted(model: str) -> LmxError:
    """The whole server was killed while it loaded the model."""
    return LmxError(
        ErrorKind.INTERNAL,
        f"The server was killed while it loaded model '{model}'.",
        code="load_interrupted",
    )


def is_quarantine(error: LmxError) -> bool:
    """True for what is told of a quarantined model."""
    return error.code == QUARANTINED


def _told(status: int | None) -> str:
    if status is None:
        return ""
    return f" (signal {-status})" if status < 0 else f" (exit status {status})"
