"""Which models are loaded: load once however many ask, unload, list."""

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Protocol

import msgspec

from opta_lmx.backends.frames import ModelKind, Ready
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.caching import ModelCache, NoCache
from opta_lmx.engine.device import Device
from opta_lmx.engine.keeping import Hands, Keeper, unloaded
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.memory import Memory, MemoryPolicy, MemoryStatus
from opta_lmx.engine.parking import awaited, until_loaded
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.recovery import Recovery, RecoveryOptions
from opta_lmx.engine.restoring import Noted
from opta_lmx.engine.runtime import ModelRuntime, ModelState, RuntimeLimits
from opta_lmx.engine.status import ModelStatus, status_of, status_out_of_service
from opta_lmx.engine.turns import Turns
from opta_lmx.models.matching import Known
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.governor import GovernorLimits
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

    def adapter(self, ref: str) -> str:
        """The adapter that a reference names; empty for none. Raises MODEL_NOT_FOUND."""
        ...

    def plan(self, ref: str, context: int | None = None) -> Plan:
        """How to run it, with a window of `context` tokens if given (at most its own)."""
        ...

    def known(self) -> Sequence[Known]:
        """The models there are, as far as their names matter."""
        ...


def _no_cache(plan: Plan) -> ModelCache:  # noqa: ARG001  (`EngineOptions.caches`)
    return NoCache()


class EngineOptions(msgspec.Struct, frozen=True):
    """What the engine room needs of the configuration.

    `line_rules` and `caches` say for each model how its line is kept and what looks after its
    prefix cache; `memory` what all of them may take. `adaptive`: fewer requests run while steps
    are slow, where the slots are ours. `governor` is for models that share the device;
    `recovery` says what crashes lead to, those of the server among them.
    """

    limits: RuntimeLimits
    line_rules: Callable[[Plan], LineRules]
    recovery: RecoveryOptions
    load_on_demand: bool = True
    loads: LoadBook = msgspec.field(default_factory=LoadBook)
    caches: Callable[[Plan], ModelCache] = _no_cache
    memory: MemoryPolicy = MemoryPolicy()
    adaptive: bool = True
    governor: GovernorLimits = GovernorLimits()


class Engine:
    """Owns every loaded model.

    Attributes:
        recovery: how often models crashed, and what is loaded, for the next start.
    """

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
        self.recovery = Recovery(options.recovery, clock, telemetry)
        memory = options.memory
        if self.recovery.safe:
            memory = msgspec.structs.replace(memory, warm=(), prefetch=False)
        self._memory = Memory(memory, self._runtimes, resolver.canonical, self._ports)
        hands = Hands(self._sound, self._start, self._evict, self._refuse)
        self._keeper = Keeper(self._memory, hands, clock, telemetry)

    def runtime(self, ref: str, kinds: Collection[ModelKind] = ("chat",)) -> ModelRuntime:
        """The model's runtime for a request, loading it if allowed.

        Where memory is short others are unloaded for it: idle ones, or when they had their turn.

        Raises:
            LmxError: MODEL_NOT_FOUND; INVALID_REQUEST for a model that is not of these kinds,
                which is then not loaded; INSUFFICIENT_RESOURCES `model_too_large`; UNAVAILABLE
                `memory_busy` where models do not take turns, `model_quarantined`.
        """
        runtime = self.find(ref)
        if runtime is not None:
            check_kind(runtime.plan, kinds)
            self._memory.arrived(runtime.plan.ref)
            self.recovery.journal.used(runtime.plan.ref)
            return runtime
        self.recovery.health.refuse(self.resolver.canonical(ref))
        if not self._options.load_on_demand:
            raise LmxError(
                ErrorKind.MODEL_NOT_FOUND,
                f"Model '{ref}' is not loaded and loading on demand is off.",
                code="model_not_loaded",
                param="model",
            )
        plan = self.resolver.plan(ref)
        check_kind(plan, kinds)
        self._memory.arrived(plan.ref)
        victims = self._memory.admit_or_call(plan)
        self._make_room(victims or ())
        runtime = self._start(plan, "swap" if victims is None else "request")
        runtime.loading.expect(self._memory.room_s(plan.ref))
        return runtime

    def find(self, ref: str) -> ModelRuntime | None:
        """The runtime of a loaded model, by its id or any reference to it; never loads."""
        runtime = self._runtimes.get(ref)
        if runtime is None:
            with contextlib.suppress(LmxError):
                runtime = self._runtimes.get(self.resolver.canonical(ref))
        return runtime

    async def load(
        self, ref: str, context: int | None = None, reason: str = "operator"
    ) -> ModelRuntime:
        """Load a model, or join the loading under way; return when it serves.

        Args:
            ref: any reference to the model.
            context: the window wanted, in tokens. A model that is loaded with less is loaded
                anew unless it has requests; more than the model's own is never given.
            reason: who wants it.

        Raises:
            LmxError: MODEL_NOT_FOUND; CONFLICT `model_busy`; INSUFFICIENT_RESOURCES
                `model_too_large`; UNAVAILABLE `memory_busy`, `model_quarantined`; what kept it
                from loading.
        """
        runtime = self.find(ref) or self._admit(self._sound(ref, context), reason)
        self._memory.asked(runtime.plan.ref)
        self.recovery.journal.used(runtime.plan.ref)
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
                return runtime, await until_loaded(runtime)
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
        await self._forget(runtime, unloaded(runtime.plan.ref))

    async def restore(self) -> None:
        """Load, into free memory, what was loaded when the last run stopped without ending."""
        await self.recovery.journal.restore(self._restore)

    async def reset(self, ref: str) -> tuple[str, bool]:
        """Forget a model's crashes, and let it in again; its id, and whether it was kept out.

        Raises MODEL_NOT_FOUND.
        """
        model, was = await self.recovery.reset(ref, self.resolver.canonical)
        runtime = self._runtimes.get(model)
        if runtime is not None and runtime.state is ModelState.QUARANTINED:
            await self._forget(runtime, unloaded(model))
        return model, was

    @contextlib.asynccontextmanager
    async def lend(self, plan: Plan) -> AsyncGenerator[None]:
        """Reserve a plan's memory, as for a load, while a worker that serves nobody is tried out.

        Idle models are unloaded for it. `plan.ref` must be no model's id, so that nobody finds
        a model there.

        Raises:
            LmxError: INSUFFICIENT_RESOURCES `model_too_large`; UNAVAILABLE `memory_busy`.
        """
        self._make_room(self._memory.admit(plan))
        try:
            await self._memory.room(plan.ref)
            yield
        finally:
            self._memory.forget(plan.ref)
            self._memory.gone(plan.ref)

    def look_after(self) -> None:
        """Begin to unload and to load ahead of requests, if that has not begun.

        The first load begins it too. What is loaded ahead makes room for who asks.
        """
        self._keeper.begin()

    def memory(self) -> MemoryStatus:
        """What the models take, of what there is."""
        return self._memory.status()

    def status(self) -> list[ModelStatus]:
        """Every loaded model, oldest first, then those in quarantine.

        Callable from any thread: it looks at a copy.
        """
        loaded = list(self._runtimes.values())
        refs = {runtime.plan.ref for runtime in loaded}
        kept_out = [one for one in self.recovery.health.quarantined() if one.model not in refs]
        return [
            *(status_of(runtime, self._memory.expires_s(runtime)) for runtime in loaded),
            *(status_out_of_service(one) for one in kept_out),
        ]

    def queues(self) -> dict[str, tuple[Depth, ...]]:
        """What each client has waiting and running, by model."""
        return {ref: runtime.line.depths() for ref, runtime in self._runtimes.items()}

    async def close(self) -> None:
        """End every worker; what still runs is told that the server stops."""
        self.recovery.stopping()
        await self._keeper.end()
        for runtime in list(self._runtimes.values()):
            await self._forget(runtime, server_stopping())
        if self._leaving:
            await asyncio.wait(self._leaving.values())
        self._device.close()
        await self.recovery.close()

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
        self._retire(runtime, unloaded(plan.ref))
        return self._start(plan, "operator")

    def _sound(self, ref: str, context: int | None = None) -> Plan:
        """Plan a model. Raises for one in quarantine, too."""
        plan = self.resolver.plan(ref, context)
        self.recovery.health.refuse(plan.ref)
        return plan

    async def _restore(self, note: Noted) -> None:
        """Load a model into free memory; nobody is waiting for it."""
        if self.find(note.model) is None:
            plan = self._sound(note.model, note.context or None)
            self._memory.admit_ahead(plan)
            await self._start(plan, "restore").until_ready()

    def _admit(self, plan: Plan, reason: str) -> ModelRuntime:
        """Load a model into the memory that is reserved for it here."""
        self._make_room(self._memory.admit(plan))
        return self._start(plan, reason)

    def _make_room(self, victims: Collection[str]) -> None:
        for ref in victims:
            self._evict(ref, "room")

    def _evict(self, ref: str, reason: str) -> None:
        """Begin to unload an idle model; one that is waited for comes back when it can."""
        runtime, (_, telemetry, _) = self._runtimes[ref], self._ports
        telemetry.count("model_evictions_total", model=ref, reason=reason)
        telemetry.log("info", "model unloaded", model=ref, reason=reason)
        if awaited(runtime):
            telemetry.count("model_loads_total", model=ref, reason="swap")
            runtime.park()
            self._memory.park(runtime.plan)
            runtime.loading.expect(self._memory.room_s(ref))
        else:
            self._retire(runtime, unloaded(ref))

    def _refuse(self, ref: str, reason: LmxError) -> None:
        """End a model that waits for room, because there is never any."""
        self._retire(self._runtimes[ref], reason)

    def _start(self, plan: Plan, reason: str) -> ModelRuntime:
        """Load a model; its memory is reserved."""
        options, (clock, telemetry, _) = self._options, self._ports
        telemetry.count("model_loads_total", model=plan.ref, reason=reason)
        room = self._memory.in_room(plan.ref, self._leaving.get(plan.ref))
        plan = msgspec.structs.replace(plan, room=room)
        line = FairLine(options.line_rules(plan), clock)
        seat = self._device.seat(plan.ref, line, adaptive=options.adaptive and _is_ours(plan))
        turns = Turns(line, options.caches(plan), clock, seat)
        vitals = self.recovery.started(plan, reason)
        runtime = ModelRuntime(plan, turns, vitals, options.limits, self._ports)
        self._runtimes[plan.ref] = runtime
        # An empty context: the model's log lines belong to no single request.
        task = asyncio.create_task(
            runtime.run(), name=f"model {plan.ref}", context=contextvars.Context()
        )
        self._tasks[plan.ref] = task
        task.add_done_callback(functools.partial(self._ended, runtime))
        self.look_after()
        return runtime

    def _ended(self, runtime: ModelRuntime, task: asyncio.Task[None]) -> None:
        """A model out of service is forgotten: a request tries afresh, unless in quarantine."""
        ref = runtime.plan.ref
        self._memory.gone(ref)
        if self._leaving.get(ref) is task:
            del self._leaving[ref]
        if not task.cancelled() and (cause := task.exception()) is not None:
            runtime.fail(cause)
        if runtime.state in (ModelState.FAILED, ModelState.QUARANTINED):
            self._memory.forget(ref)
            self._drop(runtime)

    def _drop(self, runtime: ModelRuntime) -> asyncio.Task[None] | None:
        """Take a runtime off the books, unless another of its name has taken its place."""
        ref = runtime.plan.ref
        if self._runtimes.get(ref) is not runtime:
            return None
        del self._runtimes[ref]
        self._memory.withdrawn(ref)
        self.recovery.journal.gone(ref)
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


def server_stopping() -> LmxError:
    """What everyone is told once the server has been asked to stop."""
    return LmxError(
        ErrorKind.UNAVAILABLE, "The server is shutting down.", code="draining", retry_after=5
    )
