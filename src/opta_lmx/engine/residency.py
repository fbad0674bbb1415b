"""Which models are loaded: load once however many ask, unload, list."""

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Protocol

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.process import resident_bytes
from opta_lmx.engine.runtime import ModelRuntime, ModelState, Plan, RuntimeLimits
from opta_lmx.scheduling.line import WaitingLine
from opta_lmx.scheduling.retry import RestartPolicy, ServiceRate


class Resolver(Protocol):
    """Finds models by reference; `engine.planner.Planner` for those on disk."""

    def canonical(self, ref: str) -> str:
        """The id under which a reference is served. Raises MODEL_NOT_FOUND."""
        ...

    def plan(self, ref: str) -> Plan:
        """How to run it."""
        ...


class EngineOptions(msgspec.Struct, frozen=True):
    """What the engine room needs of the configuration."""

    limits: RuntimeLimits
    max_waiting: Callable[[str], int]
    restart_policy: Callable[[], RestartPolicy]
    load_on_demand: bool = True


class ModelStatus(msgspec.Struct, frozen=True):
    """One loaded model for operators."""

    id: str
    backend: str
    state: str
    context_length: int
    slots: int
    running: int
    waiting: int
    restarts: int
    steps: int
    step_age_s: float
    pid: int | None
    rss_bytes: int | None
    error: str | None


class Engine:
    """Owns every loaded model."""

    def __init__(
        self, resolver: Resolver, options: EngineOptions, clock: Clock, telemetry: Telemetry
    ) -> None:
        self.resolver = resolver
        self._options = options
        self._ports = (clock, telemetry)
        self._runtimes: dict[str, ModelRuntime] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def runtime(self, ref: str) -> ModelRuntime:
        """The model's runtime, loading it if allowed. Raises MODEL_NOT_FOUND."""
        runtime = self.find(ref)
        if runtime is not None:
            return runtime
        if not self._options.load_on_demand:
            self.resolver.canonical(ref)
            raise LmxError(
                ErrorKind.MODEL_NOT_FOUND,
                f"Model '{ref}' is not loaded and loading on demand is off.",
                code="model_not_loaded",
                param="model",
            )
        return self._start(ref)

    def find(self, ref: str) -> ModelRuntime | None:
        """The runtime of a loaded model, by its id or any reference to it; never loads."""
        runtime = self._runtimes.get(ref)
        if runtime is None:
            with contextlib.suppress(LmxError):
                runtime = self._runtimes.get(self.resolver.canonical(ref))
        return runtime

    async def load(self, ref: str) -> ModelRuntime:
        """Load a model, or join the loading under way; return when it serves."""
        runtime = self.find(ref) or self._start(ref)
        await runtime.until_ready()
        return runtime

    async def unload(self, ref: str) -> None:
        """End the model's worker; running requests get a typed error. Raises if not loaded."""
        runtime = self.find(ref)
        if runtime is None:
            raise LmxError(
                ErrorKind.MODEL_NOT_FOUND,
                f"Model '{ref}' is not loaded.",
                code="model_not_loaded",
                param="model",
            )
        await self._forget(runtime, _unloaded(runtime.plan.ref))

    def status(self) -> list[ModelStatus]:
        """Every loaded model, oldest first. Callable from any thread: it looks at a copy."""
        return [_status(runtime) for runtime in list(self._runtimes.values())]

    async def close(self) -> None:
        """End every worker; what still runs is told that the server stops."""
        for runtime in list(self._runtimes.values()):
            await self._forget(runtime, server_stopping())

    def _start(self, ref: str) -> ModelRuntime:
        plan = self.resolver.plan(ref)
        line = WaitingLine(self._options.max_waiting(plan.ref), ServiceRate())
        runtime = ModelRuntime(
            plan, line, self._options.restart_policy(), self._options.limits, self._ports
        )
        self._runtimes[plan.ref] = runtime
        # An empty context: the model's log lines belong to no single request.
        task = asyncio.create_task(
            runtime.run(), name=f"model {plan.ref}", context=contextvars.Context()
        )
        self._tasks[plan.ref] = task
        task.add_done_callback(functools.partial(self._ended, runtime))
        return runtime

    def _ended(self, runtime: ModelRuntime, task: asyncio.Task[None]) -> None:
        """A model that could not be loaded is forgotten, so the next request tries afresh."""
        if not task.cancelled() and (cause := task.exception()) is not None:
            runtime.fail(cause)
        if runtime.state is ModelState.FAILED:
            self._drop(runtime)

    def _drop(self, runtime: ModelRuntime) -> asyncio.Task[None] | None:
        """Take a runtime off the books, unless another of its name has taken its place."""
        ref = runtime.plan.ref
        if self._runtimes.get(ref) is not runtime:
            return None
        del self._runtimes[ref]
        return self._tasks.pop(ref, None)

    async def _forget(self, runtime: ModelRuntime, reason: LmxError) -> None:
        task = self._drop(runtime)
        runtime.retire(reason)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


def _unloaded(ref: str) -> LmxError:
    return LmxError(ErrorKind.UNAVAILABLE, f"Model '{ref}' was unloaded.", code="model_unloaded")


def server_stopping() -> LmxError:
    """What everyone is told once the server has been asked to stop."""
    return LmxError(
        ErrorKind.UNAVAILABLE, "The server is shutting down.", code="draining", retry_after=5
    )


def _status(runtime: ModelRuntime) -> ModelStatus:
    worker, ready = runtime.worker, runtime.ready
    pid = None if worker is None else worker.pid
    return ModelStatus(
        id=runtime.plan.ref,
        backend=runtime.plan.backend,
        state=runtime.state.value,
        context_length=0 if ready is None else ready.context,
        slots=runtime.line.slots,
        running=runtime.line.running,
        waiting=runtime.line.waiting,
        restarts=runtime.restarts,
        steps=0 if worker is None else worker.steps,
        step_age_s=0.0 if worker is None else worker.step_age_s(),
        pid=pid,
        rss_bytes=None if pid is None else resident_bytes(pid),
        error=None if runtime.error is None else runtime.error.message,
    )
