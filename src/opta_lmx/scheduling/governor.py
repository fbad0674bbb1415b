"""Who may use a device that several models share: prompts in turn, background within a share."""

import math
from collections.abc import Mapping

import msgspec

from opta_lmx.core.principal import Lane

SHARE = 0.2
"""Of the time while an interactive row runs: what background steps may take of it."""
BURST_MS = 100.0
QUANTUM_MS = 250.0
"""Time for which a worker processes prompts before another of the same urgency takes its turn."""
AGEING_S = 10.0
"""Every so long, a prompt that waits counts as one class more urgent."""
STUCK_S = 2.0
"""A worker that reports no step for so long in its turn has lost it until it reports one."""


class GovernorLimits(msgspec.Struct, frozen=True):
    """What background may take and how long turns are; `share` is above 0 and below 1."""

    share: float = SHARE
    burst_ms: float = BURST_MS
    quantum_ms: float = QUANTUM_MS
    ageing_s: float = AGEING_S


class DeviceStep(msgspec.Struct, frozen=True):
    """A step that a worker reports: its length, its rows by class, and whose prompt it processed.

    `rows` counts the rows that decoded; `prefill` is the best class among the prompts processed
    in it, None when there were none.
    """

    ms: float
    rows: Mapping[Lane, int] = {}
    prefill: Lane | None = None

    @property
    def background_ms(self) -> float:
        """What of the step was spent on background rows and prompts."""
        total = sum(self.rows.values())
        if self.prefill is not None:
            return self.ms if self.prefill is Lane.BACKGROUND else 0.0
        return self.ms * self.rows.get(Lane.BACKGROUND, 0) / total if total else 0.0


class _Worker:
    """What is known of one worker on the device."""

    def __init__(self) -> None:
        self.running: dict[Lane, int] = {}
        self.since: dict[Lane, float] = {}
        self.turn_ended_at = float("-inf")
        self.stuck = False

    def rank(self, now: float, ageing_s: float, *, held: bool) -> int | None:
        """Class of the most urgent prompt, better for having waited; None without one."""
        ranks = (
            math.ceil(lane - (now - since) / ageing_s)
            for lane, since in self.since.items()
            if not (held and lane is Lane.BACKGROUND)
        )
        return min(ranks, default=None)


class _Turn(msgspec.Struct):
    """Who processes prompts: for how many ms so far, when last, and of which classes."""

    worker: str
    progress_at: float
    ms: float = 0.0
    served: set[Lane] = msgspec.field(default_factory=set[Lane])


class BackgroundShare:
    """Holds background to its share of the time in which interactive rows run.

    Time earns credit at the share's rate, up to a burst; background steps spend it while such
    rows run. Once spent, background waits until half a burst is earned, so that it is not stopped
    at every step. It waits so long too when an interactive row comes after a pause of that
    length, in which background had the device for itself: the first token must not wait for it.
    """

    def __init__(self, share: float, burst_ms: float) -> None:
        self._share = share
        self._burst_ms = burst_ms
        self._credit_ms = burst_ms
        self._earned_at = self._free_since = float("-inf")
        self._running = False
        self._spent = False

    def interactive(self, now: float, *, running: bool) -> None:
        """Say whether an interactive row runs from now on."""
        self._earn(now)
        if running and not self._running and now - self._free_since >= self._hold_s:
            self._credit_ms, self._spent = 0.0, True
        if self._running and not running:
            self._free_since = now
        self._running = running

    def spend(self, ms: float, now: float) -> None:
        """Background has used the device."""
        self._earn(now)
        if self._running:
            self._credit_ms -= ms
            self._spent = self._spent or self._credit_ms <= 0

    def held(self, now: float) -> bool:
        """True while background must not run."""
        self._earn(now)
        return self._running and self._spent

    def wait_s(self, now: float) -> float:
        """Seconds until background may run again, if interactive rows go on."""
        if not self.held(now):
            return 0.0
        return (self._burst_ms / 2 - self._credit_ms) / self._share / 1000

    @property
    def _hold_s(self) -> float:
        return self._burst_ms / 2 / self._share / 1000

    def _earn(self, now: float) -> None:
        earned = self._credit_ms + self._share * (now - self._earned_at) * 1000
        self._credit_ms = min(self._burst_ms, earned)
        self._earned_at = now
        if self._credit_ms >= self._burst_ms / 2:
            self._spent = False


class DeviceGovernor:
    """Decides for all workers of one device; told of rows, waiting prompts and steps.

    One worker processes prompts at a time. It keeps its turn for a quantum, unless a more urgent
    class comes; then the most urgent worker takes its turn, among equals the one whose last turn
    is longest ago. Decoding is never held, but for background rows beyond their share.
    """

    def __init__(self, limits: GovernorLimits | None = None) -> None:
        self._limits = limits or GovernorLimits()
        self._workers: dict[str, _Worker] = {}
        self._share = BackgroundShare(self._limits.share, self._limits.burst_ms)
        self._turn: _Turn | None = None

    def running(self, worker: str, rows: Mapping[Lane, int], now: float) -> None:
        """Rows that the worker has, by class: granted a slot and not released."""
        self._worker(worker).running = {lane: count for lane, count in rows.items() if count}
        self._note_interactive(now)

    def waiting(self, worker: str, prompts: Mapping[Lane, int], now: float) -> None:
        """Prompts that the worker could process now or is processing, by class."""
        known = self._worker(worker)
        # A class waits from when its first prompt came until none is left.
        known.since = {lane: known.since.get(lane, now) for lane, count in prompts.items() if count}

    def stepped(self, worker: str, step: DeviceStep, now: float) -> None:
        """Take in a step that ended now."""
        if spent := step.background_ms:
            self._share.spend(spent, now)
        self._worker(worker).stuck = False
        if self._turn is not None and self._turn.worker == worker and step.prefill is not None:
            self._turn.ms += step.ms
            self._turn.progress_at = now
            self._turn.served.add(step.prefill)

    def left(self, worker: str, now: float) -> None:
        """The worker is gone."""
        self._workers.pop(worker, None)
        if self._turn is not None and self._turn.worker == worker:
            self._turn = None
        self._note_interactive(now)

    def background_held(self, now: float) -> bool:
        """True while background rows and prompts of all workers must pause."""
        return self._share.held(now)

    def background_wait_s(self, now: float) -> float:
        """Seconds until background may go on, if nothing else changes."""
        return self._share.wait_s(now)

    def may_prefill(self, worker: str, now: float) -> bool:
        """True when this worker may process prompts now."""
        return self.prefilling(now) == worker

    def prefilling(self, now: float) -> str | None:
        """The one worker that may process prompts now; None when none has any that may run."""
        wanting = self._wanting(now)
        if self._turn is not None:
            if self._turn.worker in wanting and not self._is_over(self._turn, wanting, now):
                return self._turn.worker
            self._end_turn(self._turn, now)
            wanting = self._wanting(now)
        if wanting:
            self._turn = _Turn(min(wanting, key=lambda name: self._order(name, wanting)), now)
        return None if self._turn is None else self._turn.worker

    def _wanting(self, now: float) -> dict[str, int]:
        """Workers with prompts that may run, and how urgent those are."""
        held, ageing_s = self.background_held(now), self._limits.ageing_s
        ranks = {
            name: known.rank(now, ageing_s, held=held) for name, known in self._workers.items()
        }
        wanting = {name: rank for name, rank in ranks.items() if rank is not None}
        going = {name: rank for name, rank in wanting.items() if not self._workers[name].stuck}
        return going or wanting

    def _is_over(self, turn: _Turn, wanting: Mapping[str, int], now: float) -> bool:
        if len(wanting) == 1:
            return False
        if now - turn.progress_at > STUCK_S:
            self._workers[turn.worker].stuck = True
            return True
        return turn.ms >= self._limits.quantum_ms or min(wanting.values()) < wanting[turn.worker]

    def _end_turn(self, turn: _Turn, now: float) -> None:
        """What was served in the turn has waited for nothing since."""
        known = self._workers[turn.worker]
        known.turn_ended_at = now
        for lane in turn.served & known.since.keys():
            known.since[lane] = now
        self._turn = None

    def _order(self, name: str, wanting: Mapping[str, int]) -> tuple[int, float, str]:
        return wanting[name], self._workers[name].turn_ended_at, name

    def _worker(self, name: str) -> _Worker:
        return self._workers.setdefault(name, _Worker())

    def _note_interactive(self, now: float) -> None:
        running = any(known.running.get(Lane.INTERACTIVE) for known in self._workers.values())
        self._share.interactive(now, running=running)
