"""Tries a model out: a real load in a worker of its own and one token, then the worker ends."""

import asyncio
from pathlib import Path
from typing import Literal

import msgspec

from opta_lmx.backends.frames import Embed, Load, Prepare, Prepared, Ready, Submit
from opta_lmx.backends.mlx.environment import worker_environment
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import DEFAULT_SAMPLING, Message, Prompt, SamplingParams
from opta_lmx.engine.memory import measured_bytes
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.planner import BackendName, Planner
from opta_lmx.engine.process import resident_bytes
from opta_lmx.engine.residency import Engine
from opta_lmx.engine.runtime import ModelRuntime, ModelState
from opta_lmx.engine.settle import settle
from opta_lmx.engine.stream import TokenStream
from opta_lmx.engine.worker import WorkerEvents, WorkerHandle, worker_died
from opta_lmx.models.manifest import ModelEntry

Outcome = Literal["passed", "failed", "refused", "skipped"]
"""`refused`: there is no memory for it now; `skipped`: it was not tried, the reason says why."""

_TICKET = 1
_GREETING = "Hello"
_GREEDY = SamplingParams(temperature=0.0).resolve(DEFAULT_SAMPLING)


class Candidate(msgspec.Struct, frozen=True):
    """What came of one backend; times in seconds, `memory_bytes` with all caches full."""

    backend: BackendName
    outcome: Outcome
    load_s: float | None = None
    first_token_s: float | None = None
    memory_bytes: int | None = None
    context_length: int | None = None
    code: str | None = None
    message: str | None = None


class Probe(msgspec.Struct, frozen=True):
    """What came of all; the recommended backend is the one of choice among those that passed."""

    model: str
    recommended_backend: BackendName | None
    candidates: tuple[Candidate, ...]


class Prober:
    """Probes one model at a time.

    Args:
        engine: keeps the books of the memory.
        planner: says how a model is to be run.
        home: state folder; kernels that MLX compiles lie below it.
        ports: clock and telemetry.
    """

    def __init__(
        self,
        engine: Engine,
        planner: Planner,
        home: Path,
        ports: tuple[Clock, Telemetry],
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._kernels = home / "cache" / "mlx-probe"
        self._ports = ports
        self._probed: str | None = None

    def uses(self, name: str) -> str | None:
        """What a stored model is in use for here."""
        return "being probed" if name == self._probed else None

    async def probe(self, model: str, backend: BackendName | None, timeout_s: float) -> Probe:
        """Try the backend asked for, or each that could run the model.

        Args:
            model: any reference to a stored model; it may name a backend itself.
            backend: the only one to try.
            timeout_s: for each backend, a conversion that was asked for included.

        Raises:
            LmxError: MODEL_NOT_FOUND; CONFLICT `model_broken`, `model_busy` or `probe_running`;
                INVALID_REQUEST `backend_mismatch`.
        """
        if self._probed is not None:
            raise LmxError(
                ErrorKind.CONFLICT,
                f"'{self._probed}' is being probed; one model is at a time.",
                code="probe_running",
            )
        wanted = self._planner.reference(model)
        self._planner.refuse_leaving(wanted.name)
        self._probed = wanted.name
        try:
            entry = await asyncio.to_thread(self._planner.store.get, wanted.name)
            asked = backend or wanted.backend
            found = [
                await self._candidate(entry, name, timeout_s, asked=asked is not None)
                for name in self._backends(entry, asked)
            ]
        finally:
            self._probed = None
        passed: list[BackendName] = [one.backend for one in found if one.outcome == "passed"]
        return Probe(entry.name, passed[0] if passed else None, tuple(found))

    def _backends(self, entry: ModelEntry, asked: str | None) -> list[BackendName]:
        """Those to try, the one of choice first."""
        first = self._planner.backend_of(entry, asked)
        if asked is not None or entry.format == "mlx" or entry.kind != "chat":
            return [first]
        return [first, "gguf" if first == "mlx" else "mlx"]

    async def _candidate(
        self, entry: ModelEntry, backend: BackendName, timeout_s: float, *, asked: bool
    ) -> Candidate:
        try:
            plan = await asyncio.to_thread(self._planner.plan, f"{entry.name}:{backend}")
        except LmxError as error:
            return _not(backend, "failed", error)
        runtime = self._engine.find(plan.ref)
        if runtime is not None:
            return _in_service(backend, runtime)
        if plan.convert_bytes and not asked:
            why = "It would have to be converted first; ask for this backend to do that."
            return Candidate(backend, "skipped", code="conversion_needed", message=why)
        return await self._try(backend, self._apart(plan), timeout_s)

    def _apart(self, plan: Plan) -> Plan:
        """The plan of a worker that shares no file with one in service."""
        environment = plan.environment
        if plan.backend == "mlx":
            environment = worker_environment(self._kernels).variables
        log = plan.log_file.with_name(f"{plan.log_file.stem}-probe.log")
        return msgspec.structs.replace(
            plan, ref=f"{plan.ref} (probe)", environment=environment, log_file=log
        )

    async def _try(self, backend: BackendName, plan: Plan, timeout_s: float) -> Candidate:
        lent = False
        try:
            async with asyncio.timeout(timeout_s), self._engine.lend(plan):
                lent = True
                return await self._run(backend, plan)
        except TimeoutError:
            why = f"It did not answer within {timeout_s:g} s."
            return Candidate(backend, "failed", code="probe_timeout", message=why)
        except LmxError as error:
            return _not(backend, "failed" if lent else "refused", error)
        except OSError as error:
            why = f"The worker cannot start: {error}"
            return Candidate(backend, "failed", code="load_failed", message=why)

    async def _run(self, backend: BackendName, plan: Plan) -> Candidate:
        """Load, ask for one token, and end the worker, whatever happens."""
        clock, telemetry = self._ports
        load = _without_saving(await plan.prepare())
        stream = TokenStream()
        events = WorkerEvents(
            heard=lambda _: None,
            stepped=lambda _: None,
            released=lambda _: None,
            died=lambda: stream.fail(worker_died(load.model)),
        )
        worker = WorkerHandle(load, clock, telemetry, events)
        try:
            began = clock.monotonic()
            ready = await worker.start(plan.environment, plan.log_file)
            loaded = clock.monotonic()
            await _ask(worker, load, stream)
            answered = clock.monotonic()
            return Candidate(
                backend,
                "passed",
                load_s=round(loaded - began, 3),
                first_token_s=round(answered - loaded, 3),
                memory_bytes=_bytes_of(worker, ready, plan),
                context_length=ready.context,
            )
        finally:
            await settle(worker.kill())


async def _ask(worker: WorkerHandle, load: Load, stream: TokenStream) -> None:
    """One small request. Raises what keeps it from being answered."""
    if load.kind != "chat":
        query = _GREETING if load.kind == "rerank" else None
        await worker.embed(Embed(_TICKET, (_GREETING,), query=query))
        return
    prepared = await _prepared(worker)
    worker.submit(Submit(_TICKET, prepared.ids, _GREEDY, max_tokens=1), stream)
    async for _ in stream:
        pass


async def _prepared(worker: WorkerHandle) -> Prepared:
    """A greeting by the model's template; as it is for a model that has none."""
    limit_s = 60.0  # the probe's own limit is what ends a template that does not
    message = Prompt(messages=(Message("user", _GREETING),))
    try:
        return await worker.prepare(Prepare(_TICKET, message), limit_s)
    except LmxError as error:
        if error.kind is not ErrorKind.INVALID_REQUEST:
            raise
    return await worker.prepare(Prepare(_TICKET, Prompt(text=_GREETING)), limit_s)


def _without_saving(load: Load) -> Load:
    """Slots' states are one worker's to write, that in service."""
    options = {name: value for name, value in load.options.items() if name != "slot_dir"}
    return msgspec.structs.replace(load, options=options)


def _bytes_of(worker: WorkerHandle, ready: Ready, plan: Plan) -> int:
    """What it takes: measured where the system tells, and at least what it says it holds."""
    resident = 0 if worker.pid is None else resident_bytes(worker.pid) or 0
    if plan.backend == "mlx":
        return max(resident, plan.need.weights) + plan.need.kv
    return max(resident, ready.weights_bytes + ready.kv_bytes)


def _in_service(backend: BackendName, runtime: ModelRuntime) -> Candidate:
    """A model that serves has passed already."""
    ready = runtime.ready
    if runtime.state is not ModelState.READY or ready is None:
        why = f"The model is {runtime.state.value} just now."
        return Candidate(backend, "skipped", code="model_busy", message=why)
    return Candidate(
        backend,
        "passed",
        load_s=round(runtime.loading.last_s, 3),
        memory_bytes=measured_bytes(runtime),
        context_length=ready.context,
        code="in_service",
        message="It is loaded and serves; figures are those of its last load.",
    )


def _not(backend: BackendName, outcome: Outcome, error: LmxError) -> Candidate:
    return Candidate(backend, outcome, code=error.code, message=error.message)
