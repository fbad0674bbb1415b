"""One loaded model: its worker, its waiting line, its slots; restarted when it dies."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from opta_lmx.backends.frames import Load, Prepared, Ready, Submit, Tune
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import Prompt, SamplingParams
from opta_lmx.engine.stream import TokenStream
from opta_lmx.engine.worker import WatchdogLimits, WorkerHandle, worker_died
from opta_lmx.scheduling.line import WaitingLine
from opta_lmx.scheduling.retry import RestartPolicy


class ModelState(StrEnum):
    """Where a model is in its life."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    UNLOADED = "unloaded"


class RuntimeLimits(msgspec.Struct, frozen=True):
    """Times a model is held to, in seconds (`stall_target_ms` in ms)."""

    load_timeout_s: float
    prepare_timeout_s: float
    stall_target_ms: int
    watchdog: WatchdogLimits


class Plan(msgspec.Struct, frozen=True):
    """How to run one model: what to load and the worker's environment.

    `prepare` does what must be done first (a conversion) and returns the final `Load`;
    `sampling` are the defaults the model's record on disk asks for.
    """

    ref: str
    backend: str
    slots: int
    prepare: Callable[[], Awaitable[Load]]
    environment: Mapping[str, str]
    log_file: Path
    sampling: SamplingParams = SamplingParams()


class ModelRuntime:
    """Keeps one model running and hands out its slots in turn.

    Args:
        plan: how to run it.
        line: who waits for it.
        policy: when to restart.
        limits: how long things may take.
        ports: clock and telemetry.
    """

    def __init__(
        self,
        plan: Plan,
        line: WaitingLine,
        policy: RestartPolicy,
        limits: RuntimeLimits,
        ports: tuple[Clock, Telemetry],
    ) -> None:
        self.plan = plan
        self.line = line
        self._policy = policy
        self._limits = limits
        self._clock, self._telemetry = ports
        self.state = ModelState.LOADING
        self.error: LmxError | None = None
        self.restarts = 0
        self.worker: WorkerHandle | None = None
        self.ready: Ready | None = None
        self._turns: dict[int, asyncio.Future[None]] = {}
        self._began: dict[int, float] = {}
        self._usable = asyncio.Event()
        self._crashed = asyncio.Event()
        self._quarantine: LmxError | None = None
        line.set_slots(plan.slots)

    # --- life -----------------------------------------------------------------

    async def run(self) -> None:
        """Load, watch and restart until cancelled, quarantined or failed."""
        try:
            while await self._live_once():
                self.state = ModelState.RESTARTING
                delay = self._policy.after_crash(self._clock.monotonic())
                if delay is None:
                    self._end(ModelState.QUARANTINED, self._crash_loop_error())
                    return
                self.restarts += 1
                self._telemetry.count("engine_restarts_total", model=self.plan.ref)
                await self._clock.sleep(delay)
        except LmxError as error:
            self._end(ModelState.FAILED, error)
        finally:
            await self._stop_worker()

    async def _live_once(self) -> bool:
        """Run one worker until it dies; True when it should be started again."""
        self._crashed.clear()
        load = await self.plan.prepare()
        began = self._clock.monotonic()
        self.worker = WorkerHandle(
            load, self._clock, self._telemetry, self._on_released, self._on_death
        )
        try:
            async with asyncio.timeout(self._limits.load_timeout_s):
                self.ready = await self.worker.start(self.plan.environment, self.plan.log_file)
        except TimeoutError:
            raise LmxError(
                ErrorKind.UNAVAILABLE,
                f"Model '{self.plan.ref}' took too long to load.",
                code="load_timeout",
            ) from None
        except OSError as error:
            raise LmxError(
                ErrorKind.UNAVAILABLE,
                f"The worker of model '{self.plan.ref}' cannot start: {error}",
                code="load_failed",
            ) from None
        self._telemetry.observe(
            "model_load_seconds", self._clock.monotonic() - began, model=self.plan.ref
        )
        self.worker.tune(Tune(self._limits.stall_target_ms))
        self.line.set_slots(self.ready.slots)
        self.state = ModelState.READY
        self._usable.set()
        self._telemetry.log("info", "model ready", model=self.plan.ref, engine=self.ready.engine)
        await self._watch(self.worker)
        await self._stop_worker()
        if self._quarantine is not None:
            self._end(ModelState.QUARANTINED, self._quarantine)
            return False
        return True

    async def _watch(self, worker: WorkerHandle) -> None:
        """Return when the worker has died or had to be killed."""
        while not self._crashed.is_set():
            try:
                async with asyncio.timeout(0.25):
                    await self._crashed.wait()
            except TimeoutError:
                if worker.overdue(self._limits.watchdog):
                    self._telemetry.log("error", "engine stalled", model=self.plan.ref)
                    return

    def _on_death(self) -> None:
        """The worker is gone: everyone in it, or waiting for it, is told now."""
        self._usable.clear()
        self.line.clear_running()
        self._began.clear()
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(self.error or worker_died(self.plan.ref))
        if self.state is ModelState.READY:
            self.state = ModelState.RESTARTING
            self._telemetry.log("error", "worker died", model=self.plan.ref)
        self._crashed.set()

    def _crash_loop_error(self) -> LmxError:
        return LmxError(
            ErrorKind.UNAVAILABLE,
            f"Model '{self.plan.ref}' keeps crashing and is quarantined; unload and load it again.",
            code="model_quarantined",
        )

    def _end(self, state: ModelState, error: LmxError) -> None:
        self.state = state
        self.error = error
        self._usable.set()
        self._telemetry.log(
            "error", "model out of service", model=self.plan.ref, reason=error.message
        )

    def fail(self, cause: BaseException) -> None:
        """An unforeseen failure of our own ended `run`: say so rather than hang."""
        self._end(
            ModelState.FAILED,
            LmxError(ErrorKind.INTERNAL, f"Model '{self.plan.ref}' failed: {cause}"),
        )

    def retire(self) -> None:
        """The model is being unloaded: whoever waits for it is told."""
        error = LmxError(
            ErrorKind.UNAVAILABLE, f"Model '{self.plan.ref}' was unloaded.", code="model_unloaded"
        )
        self.state, self.error = ModelState.UNLOADED, error
        self._usable.set()

    async def _stop_worker(self) -> None:
        """End and reap the worker; called again after a cancellation, it finishes the job."""
        worker = self.worker
        if worker is not None:
            await worker.kill(self.error)
            self.worker = None

    # --- use ------------------------------------------------------------------

    async def until_ready(self) -> Ready:
        """Wait until requests can be prepared. Raises what put the model out of service."""
        await self._usable.wait()
        if self.error is not None:
            raise self.error
        assert self.ready is not None
        return self.ready

    async def prepare(self, ticket: int, prompt: Prompt) -> Prepared:
        """Render and tokenize; a template that never ends quarantines the model."""
        worker = self._living()
        try:
            async with asyncio.timeout(self._limits.prepare_timeout_s):
                return await worker.prepare(ticket, prompt)
        except TimeoutError:
            self._quarantine = LmxError(
                ErrorKind.UNAVAILABLE,
                f"The chat template of model '{self.plan.ref}' did not finish within "
                f"{self._limits.prepare_timeout_s:g} s; the model is quarantined.",
                code="model_quarantined",
            )
            self._crashed.set()
            raise self._quarantine from None

    async def turn(self, ticket: int) -> None:
        """Wait in line until a slot is granted to this ticket."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[ticket] = future
        self.line.mark_ready(ticket)
        self._grant()
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._on_released(ticket)
            raise
        finally:
            self._turns.pop(ticket, None)

    def submit(self, request: Submit) -> TokenStream:
        """Start generating on the slot granted to `request.id`."""
        self._began[request.id] = self._clock.monotonic()
        return self._living().submit(request)

    def cancel(self, ticket: int, keep: int | None = None) -> None:
        """Stop a request; its slot returns when the worker has released it."""
        if self.worker is not None and not self.worker.dead:
            self.worker.cancel(ticket, keep)

    def leave(self, ticket: int, *, keep: int | None = None, submitted: bool) -> None:
        """The client's side of a request is over before its last token was produced."""
        self.line.leave(ticket)
        if submitted:
            self.cancel(ticket, keep)
        else:
            self._on_released(ticket)

    def _living(self) -> WorkerHandle:
        if self.worker is None or self.worker.dead:
            raise worker_died(self.plan.ref)
        return self.worker

    def _on_released(self, ticket: int) -> None:
        began = self._began.pop(ticket, None)
        took = None if began is None else self._clock.monotonic() - began
        self.line.release(ticket, took)
        self._grant()

    def _grant(self) -> None:
        while self.state is ModelState.READY and (ticket := self.line.grant()) is not None:
            turn = self._turns.get(ticket)
            if turn is None or turn.done():
                self.line.release(ticket)
            else:
                turn.set_result(None)
