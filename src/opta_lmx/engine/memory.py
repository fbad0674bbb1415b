"""The books of the machine's memory, kept in step with the models that are loaded."""

import asyncio
import math
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.process import resident_bytes
from opta_lmx.engine.rooming import RoomLine, used
from opta_lmx.engine.runtime import ModelRuntime, ModelState
from opta_lmx.engine.settle import settle
from opta_lmx.scheduling.ledger import MemoryLedger, MemoryNeed
from opta_lmx.scheduling.prefetch import GAP_S, Prefetch, UsageForecast, prefetch
from opta_lmx.scheduling.swapping import Swap, Swaps

_MAX_KNOWN = 256
_Victims = TypeVar("_Victims", tuple[str, ...], tuple[str, ...] | None)


class MemoryPolicy(msgspec.Struct, frozen=True):
    """What models may take, and which of them stay.

    `pinned` and `warm` are references to models; `ttl_s` is how long one may be idle (None: for
    ever); requests less than `gap_s` apart are one spell of use. Models without room beside each
    other take turns of `swap_after_s` (0: who finds no room is refused). With `on_demand` off only
    operators decide who is loaded: nothing is loaded ahead, and no request says how long one stays.
    """

    budget_bytes: int = sys.maxsize
    ttl_s: float | None = None
    pinned: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()
    prefetch: bool = False
    gap_s: float = GAP_S
    swap_after_s: float = 0.0
    on_demand: bool = True


class ModelMemory(msgspec.Struct, frozen=True):
    """One model's memory for operators: bytes and seconds.

    `bytes` is `estimate` until it was measured.
    """

    model: str
    state: str
    bytes: int
    estimate: int
    measured: bool
    users: int
    pinned: bool
    warm: bool
    idle_s: float


class MemoryStatus(msgspec.Struct, frozen=True):
    """The machine's memory for operators, in bytes."""

    budget_bytes: int
    committed_bytes: int
    free_bytes: int
    models: tuple[ModelMemory, ...]


class Memory:
    """Admits models, and says who is to go and who to come.

    Before every decision it looks at the models as they are: who is busy, who has come up. It
    unloads nobody itself; whoever asks does so with those that are named.

    Args:
        policy: budget and rules.
        runtimes: the loaded models by id, as they come and go.
        canonical: the id of a reference. Raises LmxError for an unknown one.
        ports: clock, telemetry, and the times that loads have taken.
    """

    def __init__(
        self,
        policy: MemoryPolicy,
        runtimes: Mapping[str, ModelRuntime],
        canonical: Callable[[str], str],
        ports: tuple[Clock, Telemetry, LoadBook],
    ) -> None:
        self._policy = policy
        self._runtimes = runtimes
        self._canonical = canonical
        self._clock, self._telemetry, self._book = ports
        self._ledger = MemoryLedger(policy.budget_bytes)
        self._swaps = Swaps(self._ledger, policy.swap_after_s)
        self._rooms = RoomLine(self._ledger, self._swaps, runtimes, self._clock)
        self._forecast = UsageForecast(policy.gap_s)
        self._needs: OrderedDict[str, MemoryNeed] = OrderedDict()
        self._measured: dict[str, tuple[int, int]] = {}
        self._dismissed: set[str] = set()
        self._moved = asyncio.Event()

    # --- coming and going -----------------------------------------------------

    def arrived(self, ref: str) -> None:
        """A request for a model came."""
        self.asked(ref)
        need = self._needs.get(ref)
        self._forecast.arrived(ref, self._clock.monotonic(), 0.0 if need is None else need.load_s)

    def asked(self, ref: str) -> None:
        """Somebody waits for a model: if it is being loaded ahead, that goes on."""
        self._ledger.asked(ref)

    def admit(self, plan: Plan) -> tuple[str, ...]:
        """Reserve memory for a model; those named in return must be unloaded for it.

        Raises what `MemoryLedger.admit` raises.
        """
        need, now = self._look(plan)
        return self._counted(lambda: self._ledger.admit(plan.ref, need, now))

    def admit_or_call(self, plan: Plan) -> tuple[str, ...] | None:
        """As `admit`, but a model that has no room for now gets in line for it: None.

        Raises:
            LmxError: INSUFFICIENT_RESOURCES `model_too_large`; UNAVAILABLE `memory_busy` where
                models do not take turns.
        """
        if not self._swaps.turn_s:
            return self.admit(plan)
        need, _ = self._look(plan)
        return self._counted(lambda: self._rooms.admit(plan.ref, need))

    def park(self, plan: Plan) -> None:
        """A model makes room for others, is waited for, and gets in line for room again."""
        self._rooms.park(plan.ref, self._need(plan))

    def withdrawn(self, ref: str) -> None:
        """A model ends that may be in line for room."""
        self._rooms.withdraw(ref)

    def room_s(self, ref: str) -> float:
        """Seconds until a model in line for room may be loaded, as far as can be told."""
        return self._rooms.wait_s(ref)

    @property
    def in_line(self) -> bool:
        """True while any model waits for room."""
        return bool(self._swaps)

    def swap(self) -> Swap:
        """What is to be done for the models that wait for room; some of it done."""
        self._refresh()
        found = self._rooms.swap()
        if found.admitted is not None:
            self._moved.set()
        return found

    def forgotten(self) -> list[str]:
        """Models in line for room that nobody has waited for in a while."""
        return self._rooms.forgotten()

    def admit_ahead(self, plan: Plan) -> None:
        """Reserve free memory for a model nobody has asked for. Raises as `admit`, uncounted."""
        need, now = self._look(plan)
        self._ledger.admit(plan.ref, need, now, _nobody, asked=False)

    def withdraw(self, ref: str) -> None:
        """A model for which memory was reserved is not loaded after all."""
        self._ledger.withdraw(ref)
        self._moved.set()

    def readmit(self, plan: Plan) -> tuple[str, ...]:
        """As `admit`, for a model that is loaded anew: its old worker ends for it."""
        need, now = self._look(plan)
        return self._counted(lambda: self._ledger.readmit(plan.ref, need, now))

    def dismiss(self, ref: str) -> None:
        """An operator unloads a model: it does not come back before somebody asks for it."""
        self._ledger.leave(ref)
        self._needs.pop(ref, None)
        self._dismissed.add(ref)

    def gone(self, ref: str) -> None:
        """A model's worker has ended: its memory is free."""
        self._rooms.freed(ref)
        self._ledger.gone(ref)
        self._moved.set()

    def in_room(
        self, ref: str, leaving: asyncio.Task[None] | None
    ) -> Callable[[], Awaitable[None]]:
        """What waits until a model's memory is reserved, and truly free.

        A worker of the same model that is `leaving` has then written what it held.
        """

        async def room() -> None:
            if leaving is not None:
                await settle(asyncio.wait([leaving]))
            if self._rooms.freed(ref):
                self._moved.set()
            await self.room(ref)

        return room

    async def room(self, ref: str) -> None:
        """Wait until memory is reserved for a model, and truly free."""
        while ref in self._swaps or not self._ledger.may_load():
            self._moved.clear()
            await self._moved.wait()

    def _look(self, plan: Plan) -> tuple[MemoryNeed, float]:
        self._refresh()
        self._dismissed.discard(plan.ref)
        return self._need(plan), self._clock.monotonic()

    def _need(self, plan: Plan) -> MemoryNeed:
        """What the model takes: as measured when it was loaded before, else as estimated.

        One that was estimated to fit and takes more than there is may still be loaded alone.
        """
        need = plan.need
        estimate, measured = self._measured.get(plan.ref, (0, 0))
        if measured and estimate == need.total:
            need = MemoryNeed(min(measured, max(estimate, self._policy.budget_bytes)))
        need = msgspec.structs.replace(need, load_s=self._book.times.load_s(plan.work))
        self._needs[plan.ref] = need
        self._needs.move_to_end(plan.ref)
        if len(self._needs) > _MAX_KNOWN:
            old, _ = self._needs.popitem(last=False)
            self._measured.pop(old, None)
        return need

    def _counted(self, admit: Callable[[], _Victims]) -> _Victims:
        try:
            return admit()
        except LmxError as error:
            self._telemetry.count("admission_rejections_total", reason=error.code)
            raise

    # --- now and then ---------------------------------------------------------

    def surplus(self) -> list[tuple[str, str]]:
        """Models to unload now, each with the reason; they are taken off the books."""
        self._refresh()
        now = self._clock.monotonic()
        expired = [ref for ref in self._ledger.expired(now, self._ttl_s) if not self._awaited(ref)]
        return [
            *((ref, "idle") for ref in expired if self._ledger.evict(ref)),
            *((ref, "overdraft") for ref in self._ledger.overdraft(now)),
        ]

    def ahead(self) -> Prefetch | None:
        """A model to load before it is asked for, and who goes for it; it is reserved."""
        if self._swaps or not (self._policy.prefetch and self._policy.on_demand):
            return None
        self._refresh()
        needs = {ref: need for ref, need in self._needs.items() if self._absent(ref)}
        warm = self._refs(self._policy.warm)
        return prefetch(self._forecast, self._ledger, needs, self._clock.monotonic(), warm)

    def missing(self) -> list[str]:
        """Models to be kept warm that are not loaded; none while any model is being loaded."""
        if self._swaps or not self._policy.warm:
            return []
        self._refresh()
        if self._ledger.loading:
            return []
        return [ref for ref in sorted(self._refs(self._policy.warm)) if self._absent(ref)]

    def forget(self, ref: str) -> None:
        """The model cannot be loaded: it is not loaded ahead before it was asked for again."""
        self._needs.pop(ref, None)

    def status(self) -> MemoryStatus:
        """Every model on the books."""
        self._refresh()
        ledger, warm = self._ledger, self._refs(self._policy.warm)
        lines = ledger.lines(self._clock.monotonic())
        models = [
            ModelMemory(
                model=line.model,
                state=line.state.value,
                bytes=line.size,
                estimate=line.estimate,
                measured=line.measured,
                users=line.users,
                pinned=line.pinned,
                warm=line.model in warm,
                idle_s=round(line.idle_s, 3),
            )
            for line in lines
        ]
        return MemoryStatus(ledger.budget, ledger.committed, ledger.free, tuple(models))

    def expires_s(self, runtime: ModelRuntime) -> float | None:
        """Seconds until a model is unloaded if nobody asks for it; None: it stays."""
        ref, line = runtime.plan.ref, runtime.line
        ttl_s = self._ttl_s(ref)
        if math.isinf(ttl_s) or ref in self._refs(self._policy.pinned):
            return None
        if line.running + line.waiting or runtime.state is not ModelState.READY:
            return ttl_s
        since = max(line.left_at, self._ledger.last_use(ref) or line.left_at)
        return max(0.0, ttl_s - (self._clock.monotonic() - since))

    # --- looking --------------------------------------------------------------

    def _refresh(self) -> None:
        """Bring the books up to what is so now."""
        now, ledger = self._clock.monotonic(), self._ledger
        ledger.pinned = self._refs(self._policy.pinned)
        for ref, runtime in self._runtimes.items():
            if runtime.state is ModelState.READY and ledger.is_loading(ref):
                size = measured_bytes(runtime)
                self._measured[ref] = (runtime.plan.need.total, size)
                ledger.loaded(ref, size, now)
                self._swaps.came_up(ref, now)
            ledger.use(ref, *used(runtime, now))
        self._rooms.look()

    def _awaited(self, ref: str) -> bool:
        """True where the model would be loaded now, were it not there."""
        now, need = self._clock.monotonic(), self._needs.get(ref)
        expected = self._forecast.expected(ref, now) if self._policy.prefetch else None
        return expected is not None and need is not None and expected.due(need.load_s) <= now

    def _absent(self, ref: str) -> bool:
        return ref not in self._runtimes and ref not in self._dismissed

    def _refs(self, names: Collection[str]) -> set[str]:
        """The ids of those that are in the store."""
        found: set[str] = set()
        for name in names:
            try:
                found.add(self._canonical(name))
            except LmxError:
                continue
        return found

    def _ttl_s(self, ref: str) -> float:
        """How long a model may be idle: as configured for it, as was asked for, as for all."""
        runtime = self._runtimes.get(ref)
        if runtime is None or ref in self._refs(self._policy.warm):
            return math.inf
        asked_s = runtime.keep_s if self._policy.on_demand else None
        for ttl_s in (runtime.plan.ttl_s, asked_s, self._policy.ttl_s):
            if ttl_s is not None:
                return ttl_s
        return math.inf


def keep(runtime: ModelRuntime, seconds: float | None) -> None:
    """From now on a model may be idle for so long: infinity for good, None changes nothing.

    What the operator has set for the model goes before it.
    """
    if seconds is not None:
        runtime.keep_s = seconds


def measured_bytes(runtime: ModelRuntime) -> int:
    """What a model takes that has just come up, with all it may ever need.

    MLX's caches grow as they are used; the others allocate theirs when they load. Of a worker
    that has been used already nobody knows how much of them is there.
    """
    ready, worker, need = runtime.ready, runtime.worker, runtime.plan.need
    pid = None if worker is None else worker.pid
    resident = 0 if pid is None else resident_bytes(pid) or 0
    weights = need.weights if ready is None else ready.weights_bytes
    if runtime.plan.backend == "mlx":
        unused = worker is not None and not worker.steps
        return max(resident + need.kv if unused else resident, need.total)
    return max(resident, weights + (0 if ready is None else ready.kv_bytes))


def _nobody(ref: str, idle_s: float) -> bool:  # noqa: ARG001  (`MemoryLedger.admit`)
    return False
