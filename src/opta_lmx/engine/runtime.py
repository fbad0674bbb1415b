"""One loaded model: its worker, its waiting line, its slots; restarted when it dies."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

import msgspec

from opta_lmx.backends.frames import (
    Embed,
    Embedded,
    Prepare,
    Prepared,
    Ready,
    Submit,
    Tune,
)
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import NO_PLACES, Places, Prompt
from opta_lmx.engine.convicts import Asked
from opta_lmx.engine.course import Course
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.loading import Loading
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.quarantine import FATAL_TO_LOAD
from opta_lmx.engine.settle import settle
from opta_lmx.engine.stream import TokenStream
from opta_lmx.engine.turns import Turns, fatal
from opta_lmx.engine.vitals import Vitals, is_quarantine
from opta_lmx.engine.watch import Watch
from opta_lmx.engine.worker import (
    WORKER_DIED,
    WatchdogLimits,
    WorkerEvents,
    WorkerHandle,
    worker_died,
)
from opta_lmx.scheduling.rules import Position, Work

T = TypeVar("T")

_FLUSH_S = 5.0
_ORDERED = (-signal.SIGTERM, -signal.SIGINT)
"""Exit statuses of workers that somebody ended before they could leave that to the front."""


class ModelState(StrEnum):
    """Where a model is in its life."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    UNLOADED = "unloaded"


class RuntimeLimits(msgspec.Struct, frozen=True):
    """Times a model is held to, in seconds (`stall_target_ms` in ms).

    `load_wait_s` is how long requests may wait for a model that is not ready.
    """

    load_timeout_s: float
    prepare_timeout_s: float
    stall_target_ms: int
    watchdog: WatchdogLimits
    load_wait_s: float = 120.0


class ModelRuntime:
    """Keeps one model running and hands out its slots in turn.

    Args:
        plan: how to run it.
        turns: who waits for it and who runs.
        vitals: counts its crashes, and says when to restart.
        limits: how long things may take.
        ports: clock, telemetry, and the times that loads have taken.

    Attributes:
        keep_s: how long it may be idle before it is unloaded, where a request has said (s).
        usable: set while requests may be prepared, or are told why they may not.
        held: it begins nothing new, as its room is another's next.
        parked: its room is another's, from then on until it serves again.
        joined: how many wait for it without a request.
        loading: what its loads take, and who was told to come back after one.
    """

    def __init__(
        self,
        plan: Plan,
        turns: Turns,
        vitals: Vitals,
        limits: RuntimeLimits,
        ports: tuple[Clock, Telemetry, LoadBook],
    ) -> None:
        self.plan = plan
        self.line = turns.line
        self._vitals = vitals
        self._limits = limits
        self._clock, self._telemetry, _ = ports
        self.loading = Loading(plan, limits.load_timeout_s, ports)
        self._watch = Watch(plan.ref, limits.watchdog)
        self.state = ModelState.LOADING
        self.error: LmxError | None = None
        self.restarts = self.joined = 0
        self.worker: WorkerHandle | None = None
        self.ready: Ready | None = None
        self._turns = turns
        self.cache, self.seat = turns.cache, turns.seat
        self.usable = asyncio.Event()
        self.keep_s: float | None = None
        self.held = self.parked = False
        turns.line.set_slots(plan.slots)
        turns.trials.convicts.keep_s = vitals.window_s

    # --- life -----------------------------------------------------------------

    async def run(self) -> None:
        """Load, watch and restart until cancelled, quarantined or failed."""
        try:
            while True:
                delay = await self._live_once()
                if delay is None or self._watch.parked:
                    continue
                self.state = ModelState.RESTARTING
                self.restarts += 1
                self._telemetry.count("engine_restarts_total", model=self.plan.ref)
                self.loading.expect(delay)
                await self._watch.unless_parked(self._clock.sleep(delay))
        except LmxError as error:
            kept_out = is_quarantine(error)
            self._end(ModelState.QUARANTINED if kept_out else ModelState.FAILED, error)
        finally:
            await settle(self._part())

    async def _live_once(self) -> float | None:
        """Run one worker until it ends; seconds after which to start the next. Raises if none.

        None after it was parked: the next one waits for room, and for nothing else.
        """
        self._watch.begin()
        load = await self.loading.prepare()
        if self._watch.parked:
            return None
        await self._vitals.loading()
        turns = self._turns
        events = WorkerEvents(self.cache.take, turns.stepped, turns.released, self._on_death)
        worker = self.worker = WorkerHandle(load, self._clock, self._telemetry, events)
        try:
            ready = await self._watch.unless_parked(self.loading.start(worker))
        except LmxError as error:
            return await self._not_loaded(worker, error)
        if ready is not None:
            self.ready = ready
            await self._open(worker, ready)
        how = await self._watch.until_over(worker, self.cache.tick)
        if how == "parked":
            self._vitals.loaded()  # or would have been
            await self.cache.flush(_FLUSH_S)
            await self._stop_worker()
            return None
        if how == "died":
            await self._stop_worker()
        return await self._over(worker, how, self._watch.cause(how, worker))

    async def _not_loaded(self, worker: WorkerHandle, error: LmxError) -> float:
        """A worker did not come up: it is tried again where it did once, and crashed or hung.

        So it is where a signal told it to end, which may be meant for all of us.
        """
        if worker.dead:
            await self._stop_worker()
        if worker.exit_status in _ORDERED and not worker.refused:
            return await self._over(worker, error.message, None)
        if self.ready is None or worker.refused or error.code not in FATAL_TO_LOAD:
            raise self._vitals.not_loaded(error) from None
        return await self._over(worker, error.message, error)

    async def _over(self, worker: WorkerHandle, reason: str, cause: LmxError | None) -> float:
        """A worker has ended, or is to: seconds after which to start the next. Raises if none.

        It is counted before the worker is stopped, which takes time: nobody is told of a
        quarantine that cannot be ended yet.
        """
        _log_end(self._telemetry, worker, self.plan, reason)
        pause_s = self._vitals.ended(cause, self._turns.trials.verdict())
        await self._stop_worker()
        return pause_s

    async def _open(self, worker: WorkerHandle, ready: Ready) -> None:
        """The model serves from here on, unless its worker has died again already."""
        await self.cache.attach(ready, worker.cache)
        if worker.dead or self._watch.parked:
            return
        worker.tune(Tune(self._limits.stall_target_ms))
        self.parked = False
        self.line.set_shut(self.held)
        self.state = ModelState.READY
        if not self.held:
            self.usable.set()
        self._turns.resume(worker, ready)
        self._vitals.loaded()
        self._telemetry.log("info", "model ready", model=self.plan.ref, engine=ready.engine)
        await self.loading.note()

    def _on_death(self) -> None:
        """The worker is gone: who cannot go on with the next one is told now."""
        if self.state is ModelState.READY:
            self.usable.clear()
            self.state = ModelState.RESTARTING
            self.loading.expect()
        self._turns.suspend(self.error or worker_died(self.plan.ref), in_peace=self.parked)
        self._watch.died()

    def _end(self, state: ModelState, error: LmxError) -> None:
        self.state = state
        self.error = error
        self._turns.close(error)
        self.usable.set()
        self._telemetry.log(
            "error", "model out of service", model=self.plan.ref, reason=error.message
        )

    def fail(self, cause: BaseException) -> None:
        """An unforeseen failure of our own ended `run`: say so rather than hang."""
        self._end(
            ModelState.FAILED,
            LmxError(ErrorKind.INTERNAL, f"Model '{self.plan.ref}' failed: {cause}"),
        )

    def retire(self, reason: LmxError) -> None:
        """The model is being unloaded: whoever waits for it is told, unless told worse before."""
        if self.error is None:
            self.state, self.error = ModelState.UNLOADED, reason
        self._turns.close(self.error)
        self.usable.set()

    def park(self) -> None:
        """Its room is another's: the worker ends, and who waits goes on waiting, for the next."""
        self.state = ModelState.LOADING
        self.parked, self.held = True, False
        self.usable.clear()
        self.line.set_shut(True)
        self._turns.part()
        self._watch.park()

    async def _part(self) -> None:
        """End the worker; one that is ended in peace saves first what it holds."""
        if self.state is ModelState.UNLOADED:
            await self.cache.flush(_FLUSH_S)
        await self._stop_worker()

    async def _stop_worker(self) -> None:
        """End and reap the worker; called again after a cancellation, it finishes the job."""
        if self.worker is not None:
            await self.worker.kill(self.error)
            self.worker = None

    # --- use ------------------------------------------------------------------

    def admit_cold(self) -> None:
        """Let a request wait for a model that is loading or restarting, if it is soon there.

        Raises UNAVAILABLE `model_loading` when not within `RuntimeLimits.load_wait_s`.
        """
        if self.state in (ModelState.LOADING, ModelState.RESTARTING):
            self.loading.admit(self._limits.load_wait_s)

    async def until_ready(self) -> Ready:
        """Wait until requests can be prepared. Raises what put the model out of service."""
        await self.usable.wait()
        if self.error is not None:
            raise self.error.again()
        assert self.ready is not None
        return self.ready

    async def prepare(self, ticket: int, prompt: Prompt, *, echo: bool = False) -> Prepared:
        """Render and tokenize; begun anew, alone, when the worker dies meanwhile.

        `echo` asks for the prompt's text too.

        Raises:
            LmxError: what is wrong with it; INVALID_REQUEST `prompt_too_slow`, after which the
                worker is ended; what ended the worker.
        """
        request = Prepare(ticket, prompt, echo)
        return await self._tried(ticket, prompt, lambda: self._prepare(request))

    async def _tried(self, ticket: int, asked: Asked, work: Callable[[], Awaitable[T]]) -> T:
        """Have the worker do what takes no slot: again after it died, unless it did of this."""
        turns = self._turns
        try:
            while True:
                await self.until_ready()
                await turns.trials.enter(ticket, asked)
                try:
                    return await work()
                except LmxError as error:
                    if turns.suspects.convicted(ticket):
                        raise fatal(error) from None
                    if error.code != WORKER_DIED:
                        raise
        finally:
            turns.prepared(ticket)

    async def _prepare(self, request: Prepare) -> Prepared:
        try:
            return await self._living().prepare(request, self._limits.prepare_timeout_s)
        except TimeoutError:
            limit_s = self._limits.prepare_timeout_s
            raise self._watch.too_slow(request.prompt, limit_s) from None

    async def turn(self, ticket: int, work: Work) -> None:
        """Wait in line until a slot is granted to this ticket. Raises what ended the wait."""
        await self._turns.wait(ticket, work)

    async def begin(self, request: Submit, places: Places = NO_PLACES) -> TokenStream:
        """Wait in line until a slot is granted to `request.id`, and start generating.

        Args:
            request: all of it, but for what concerns the cache.
            places: where its prompt may be taken up again.

        Raises:
            LmxError: what ended the wait.
        """
        # One that is not known must fail: it would pass for the model as it is.
        version = self.plan.adapters[request.adapter] if request.adapter else ""
        course = Course(request, self.line.caller(request.id), places, version)
        await self._turns.come(course)
        self._living()
        self._turns.begin(course)
        return course.stream

    async def embed(self, request: Embed) -> Embedded:
        """Make vectors or scores on the slot granted to `request.id`. Raises what prevents it.

        A mere count needs no slot, and is begun anew, alone, when the worker dies meanwhile.
        """
        if not request.count:
            return await self._living().embed(request)
        return await self._tried(request.id, request, lambda: self._living().embed(request))

    def leave(self, ticket: int, *, keep: int | None = None, submitted: bool) -> None:
        """The client's side of a request is over before its last token was produced.

        A submitted request is stopped, and its slot returns when the worker has released it.
        """
        if submitted:
            self._turns.stop(ticket, keep)
        else:
            self._turns.leave(ticket)

    def position(self, ticket: int) -> Position | None:
        """How many go before a request, and how long that takes; None for one that runs."""
        return self._turns.position(ticket)

    def retry_after(self, ticket: int) -> float:
        """Its time is up: seconds after which its caller may try again, a place being kept."""
        if self.state is ModelState.READY and not self.held:
            return self.line.give_up(ticket)
        return self.loading.tell(self.line.give_up(ticket, self.loading.retry_s))

    def _living(self) -> WorkerHandle:
        if self.worker is None or self.worker.dead:
            raise self.error or worker_died(self.plan.ref)
        return self.worker


def _log_end(telemetry: Telemetry, worker: WorkerHandle, plan: Plan, reason: str) -> None:
    telemetry.log(
        "error",
        "worker ended",
        model=plan.ref,
        reason=reason,
        exit_status=worker.exit_status,
        log=str(plan.log_file),
    )
