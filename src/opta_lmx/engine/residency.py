"""Which models are loaded: load once however many ask, unload, list."""

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import msgspec

from opta_lmx.backends.frames import Load, ModelKind, Ready
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.caching import ModelCache, NoCache
from opta_lmx.engine.device import Device
from opta_lmx.engine.keeping import Hands, Keeper
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.memory import Memory, MemoryPolicy, MemoryStatus
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.runtime import ModelRuntime, ModelState, RuntimeLimits
from opta_lmx.engine.settle import settle
from opta_lmx.engine.status import ModelStatus, status_of
from opta_lmx.engine.turns import Turns
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.governor import GovernorLimits
from opta_lmx.scheduling.retry import RestartPolicy
from opta_lmx.scheduling.rules import Depth, LineRules

_MADE_FOR: dict[ModelKind, str] = {
    "chat": "makes text",
    "embedding": "makes vectors",
    "rerank": "scores documents",
}


class Resolver(Protocol):
    """Finds models by reference; `engine.planner.Planner` for those on disk."""

    def canonical(self, ref: str) -> str:
        """The id under which a reference is served. Raises MODEL_NOT_FOUND."""
        ...

    def plan(self, ref: str, context: int | None = None) -> Plan:
        """How to run it, with a window of `context` tokens if given (at most its own)."""
        ...


def _no_cache(plan: Plan) -> ModelCache:  # noqa: ARG001  (`EngineOptions.caches`)
    return NoCache()


class EngineOptions(msgspec.Struct, frozen=True):
    """What the engine room needs of the configuration.

    `line_rules` and `caches` say for each model how its line is kept and what looks after its
    prefix cache; `memory` what all of them may take. `adaptive`: fewer requests run while steps
    are slow, where the slots are ours. `governor` is for models that share the device.
    """

    limits: RuntimeLimits
    line_rules: Callable[[Plan], LineRules]
    restart_policy: Callable[[], RestartPolicy]
    load_on_demand: bool = True
    loads: LoadBook = msgspec.field(default_factory=LoadBook)
    caches: Callable[[Plan], ModelCache] = _no_cache
    memory: MemoryPolicy = MemoryPolicy()
    adaptive: bool = True
    governor: GovernorLimits = GovernorLimits()


class Engine:
    """Owns every loaded model."""

    def __init__(
        self, resolver: Resolver, options: EngineOptions, clock: Clock, telemetry: Telemetry
    ) -> None:
        self.resolver = resolver
        self._options = options
        self._ports = (clock, telemetry, options.loads)
        self._runtimes: dict[str, ModelRuntime] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._device = Device(clock, options.governor)
        self._memory = Memory(options.memory, self._runtimes, resolver.canonical, self._ports)
        self._keeper: asyncio.Task[None] | None = None

    def runtime(self, ref: str, kinds: Collection[ModelKind] = ("chat",)) -> ModelRuntime:
        """The model's runtime for a request, loading it if allowed.

        Idle models are unloaded for it where memory is short.

        Raises:
            LmxError: MODEL_NOT_FOUND; INVALID_REQUEST for a model that is not of these kinds,
                which is then not loaded; INSUFFICIENT_RESOURCES `model_too_large`; UNAVAILABLE
                `memory_busy` while models that are used leave no room for it.
        """
        runtime = self.find(ref)
        if runtime is not None:
            check_kind(runtime.plan, kinds)
            self._memory.arrived(runtime.plan.ref)
            return runtime
        if not self._options.load_on_demand:
            self.resolver.canonical(ref)
            raise LmxError(
                ErrorKind.MODEL_NOT_FOUND,
                f"Model '{ref}' is not loaded and loading on demand is off.",
                code="model_not_loaded",
                param="model",
            )
        plan = self.resolver.plan(ref)
        check_kind(plan, kinds)
        self._memory.arrived(plan.ref)
        return self._admit(plan, "request")

    def find(self, ref: str) -> ModelRuntime | None:
        """The runtime of a loaded model, by its id or any reference to it; never loads."""
        runtime = self._runtimes.get(ref)
        if runtime is None:
            with contextlib.suppress(LmxError):
                runtime = self._runtimes.get(self.resolver.canonical(ref))
        return runtime

    async def load(self, ref: str, context: int | None = None) -> ModelRuntime:
        """Load a model, or join the loading under way; return when it serves.

        Args:
            ref: any reference to the model.
            context: the window wanted, in tokens. A model that is loaded with less is loaded
                anew unless it has requests; more than the model's own is never given.

        Raises:
            LmxError: MODEL_NOT_FOUND; CONFLICT `model_busy`; INSUFFICIENT_RESOURCES
                `model_too_large`; UNAVAILABLE `memory_busy`; what kept it from loading.
        """
        runtime = self.find(ref) or self._admit(self.resolver.plan(ref, context), "operator")
        self._memory.asked(runtime.plan.ref)
        runtime, ready = await self._serving(runtime)
        if context is None or ready.context >= context:
            return runtime
        plan = self.resolver.plan(runtime.plan.ref, context)
        # What was asked for before and not given in full would not be given now either.
        if max(ready.context, runtime.plan.context) < plan.context:
            runtime, _ = await self._serving(self._replace(runtime, plan, ready.context))
        return runtime

    async def _serving(self, runtime: ModelRuntime) -> tuple[ModelRuntime, Ready]:
        """Wait until a model serves; if it was loaded anew meanwhile, that one."""
        while True:
            try:
                return runtime, await runtime.until_ready()
            except LmxError:
                successor = self._runtimes.get(runtime.plan.ref, runtime)
                if successor is runtime or runtime.state is not ModelState.UNLOADED:
                    raise
                runtime = successor

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
        self._memory.dismiss(runtime.plan.ref)
        await self._forget(runtime, _unloaded(runtime.plan.ref))

    def look_after(self) -> None:
        """Begin to unload and to load ahead of requests, if that has not begun.

        The first load begins it too. What is loaded ahead makes room for who asks.
        """
        if self._keeper is None or self._keeper.done():
            clock, telemetry, _ = self._ports
            hands = Hands(self.resolver.plan, self._start, self._evict)
            keeper = Keeper(self._memory, hands, clock, telemetry)
            self._keeper = asyncio.create_task(
                keeper.run(), name="memory keeper", context=contextvars.Context()
            )
            self._keeper.add_done_callback(self._kept)

    def _kept(self, task: asyncio.Task[None]) -> None:
        """An unforeseen failure of our own: say so; the next load begins anew."""
        if not task.cancelled() and (cause := task.exception()) is not None:
            self._ports[1].log("error", "memory keeper failed", exc_info=cause)

    def memory(self) -> MemoryStatus:
        """What the models take, of what there is."""
        return self._memory.status()

    def status(self) -> list[ModelStatus]:
        """Every loaded model, oldest first. Callable from any thread: it looks at a copy."""
        return [
            status_of(runtime, self._memory.expires_s(runtime))
            for runtime in list(self._runtimes.values())
        ]

    def queues(self) -> dict[str, tuple[Depth, ...]]:
        """What each client has waiting and running, by model."""
        return {ref: runtime.line.depths() for ref, runtime in self._runtimes.items()}

    async def close(self) -> None:
        """End every worker; what still runs is told that the server stops."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        for runtime in list(self._runtimes.values()):
            await self._forget(runtime, server_stopping())
        if self._leaving:
            await asyncio.wait(self._leaving.values())
        self._device.close()

    def _replace(self, runtime: ModelRuntime, plan: Plan, loaded_context: int) -> ModelRuntime:
        """Load an idle model anew; requests that come meanwhile wait for the new one."""
        if runtime.line.running or runtime.line.waiting:
            raise LmxError(
                ErrorKind.CONFLICT,
                f"Model '{plan.ref}' is loaded with a context of {loaded_context} tokens and has "
                f"requests; it can be loaded with {plan.context} when they have ended.",
                code="model_busy",
                param="context_length",
            )
        self._make_room(self._memory.readmit(plan))
        self._retire(runtime, _unloaded(plan.ref))
        return self._start(plan, "operator")

    def _admit(self, plan: Plan, reason: str) -> ModelRuntime:
        """Load a model into the memory that is reserved for it here."""
        self._make_room(self._memory.admit(plan))
        return self._start(plan, reason)

    def _make_room(self, victims: Collection[str]) -> None:
        for ref in victims:
            self._evict(ref, "room")

    def _evict(self, ref: str, reason: str) -> None:
        """Begin to unload an idle model."""
        runtime, (_, telemetry, _) = self._runtimes[ref], self._ports
        telemetry.count("model_evictions_total", model=ref, reason=reason)
        telemetry.log("info", "model unloaded", model=ref, reason=reason)
        self._retire(runtime, _unloaded(ref))

    def _start(self, plan: Plan, reason: str) -> ModelRuntime:
        """Load a model; its memory is reserved."""
        options, (clock, telemetry, _) = self._options, self._ports
        telemetry.count("model_loads_total", model=plan.ref, reason=reason)
        plan = msgspec.structs.replace(plan, prepare=self._in_room(plan))
        line = FairLine(options.line_rules(plan), clock)
        seat = self._device.seat(plan.ref, line, adaptive=options.adaptive and _is_ours(plan))
        turns = Turns(line, options.caches(plan), clock, seat)
        runtime = ModelRuntime(plan, turns, options.restart_policy(), options.limits, self._ports)
        self._runtimes[plan.ref] = runtime
        # An empty context: the model's log lines belong to no single request.
        task = asyncio.create_task(
            runtime.run(), name=f"model {plan.ref}", context=contextvars.Context()
        )
        self._tasks[plan.ref] = task
        task.add_done_callback(functools.partial(self._ended, runtime))
        self.look_after()
        return runtime

    def _in_room(self, plan: Plan) -> Callable[[], Awaitable[Load]]:
        """What makes the model ready to be loaded, begun when its memory is truly free.

        A worker of the same model that is ending has then written what it held.
        """
        leaving = self._leaving.get(plan.ref)

        async def prepare() -> Load:
            if leaving is not None:
                await settle(asyncio.wait([leaving]))
            await self._memory.room()
            return await plan.prepare()

        return prepare

    def _ended(self, runtime: ModelRuntime, task: asyncio.Task[None]) -> None:
        """A model that could not be loaded is forgotten, so the next request tries afresh."""
        ref = runtime.plan.ref
        self._memory.gone(ref)
        if self._leaving.get(ref) is task:
            del self._leaving[ref]
        if not task.cancelled() and (cause := task.exception()) is not None:
            runtime.fail(cause)
        if runtime.state is ModelState.FAILED:
            self._memory.forget(ref)
            self._drop(runtime)

    def _drop(self, runtime: ModelRuntime) -> asyncio.Task[None] | None:
        """Take a runtime off the books, unless another of its name has taken its place."""
        ref = runtime.plan.ref
        if self._runtimes.get(ref) is not runtime:
            return None
        del self._runtimes[ref]
        return self._tasks.pop(ref, None)

    def _retire(self, runtime: ModelRuntime, reason: LmxError) -> asyncio.Task[None] | None:
        """Begin to end a runtime; the task that does it."""
        task = self._drop(runtime)
        runtime.retire(reason)
        if task is not None:
            self._leaving[runtime.plan.ref] = task
            task.cancel()
        return task

    async def _forget(self, runtime: ModelRuntime, reason: LmxError) -> None:
        task = self._retire(runtime, reason)
        if task is not None:
            await asyncio.wait([task])


def check_kind(plan: Plan, kinds: Collection[ModelKind]) -> None:
    """Raise INVALID_REQUEST `model_not_…` unless the model is of one of the kinds."""
    if plan.kind in kinds:
        return
    name = next(iter(kinds))
    message = f"Model '{plan.ref}' {_MADE_FOR[plan.kind]} and cannot be used here."
    raise invalid(message, param="model", code=f"model_not_{name}")


def _is_ours(plan: Plan) -> bool:
    """True when steps tell how slow the device is.

    llama.cpp tells when tokens arrive, not what a step took, and encoders' steps differ in length.
    """
    return plan.kind == "chat" and plan.backend != "gguf"


def _unloaded(ref: str) -> LmxError:
    return LmxError(ErrorKind.UNAVAILABLE, f"Model '{ref}' was unloaded.", code="model_unloaded")


def server_stopping() -> LmxError:
    """What everyone is told once the server has been asked to stop."""
    return LmxError(
        ErrorKind.UNAVAILABLE, "The server is shutting down.", code="draining", retry_after=5
    )
