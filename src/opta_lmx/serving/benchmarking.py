"""How fast a loaded model is: measured through the server's own gate, line and slots.

Requests are those of the background lane, so nobody waits for them; who else was served
meanwhile is told with the result. Each prompt begins with words drawn anew, so that no cache
holds it.
"""

import asyncio
import os
import platform
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import msgspec

from opta_lmx import __version__
from opta_lmx.core.clock import Clock, system_random
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.ids import uuid7
from opta_lmx.core.principal import Caller, Lane, Principal
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import GenerationRequest, Message, Prompt, SamplingParams
from opta_lmx.engine.residency import Engine
from opta_lmx.engine.runtime import ModelRuntime, ModelState
from opta_lmx.serving import benchmark_rows as rows
from opta_lmx.serving.benchmark_figures import Figures, Sample, figures
from opta_lmx.serving.run import ModelRun, RunLimits
from opta_lmx.serving.service import Serving, Ticket
from opta_lmx.store.database import Database

Json = dict[str, Any]
SCHEMA = rows.SCHEMA

CLIENT = "benchmark"
_PATIENCE_S = 600.0
"""A background request may wait this long for a slot before the benchmark gives up."""
_LOOK_S = 0.02
_FEW, _MANY = 8, 72
_GREEDY = SamplingParams(temperature=0.0)
_TASK = "\nWrite a long story about these words: "
_LIST = """
anchor basket candle desert engine forest garden harbour island jacket kitchen ladder market needle
ocean pencil quarry river saddle table umbrella valley window yellow zebra autumn bridge castle
dragon evening feather glass hammer insect journey kettle lantern mirror number orchard paper quiet
rabbit silver tunnel under village winter
"""
_WORDS = tuple(_LIST.split())
_Result = TypeVar("_Result")


class BenchmarkPlan(msgspec.Struct, frozen=True):
    """What to measure.

    `runs` times `concurrency` answers of `output_tokens` each to prompts of about `prompt_tokens`,
    after `warmup_runs` that do not count.
    """

    model: str
    output_tokens: int = 200
    runs: int = 5
    warmup_runs: int = 1
    concurrency: int = 1
    prompt_tokens: int = 128


class Others(msgspec.Struct, frozen=True):
    """Who else was served by this server, whatever the model.

    `share`: of the looks (one every 20 ms), how many found others in slots; `most`: how many
    slots they held at once.
    """

    share: float = 0.0
    most: int = 0


class Benchmarks:
    """Runs benchmarks, one at a time, and keeps what they found.

    Args:
        engine: knows the models and their lines.
        serving: admits the requests.
        database: opened with `SCHEMA` among its schemas.
        clock: time.
        telemetry: told what the requests took, as of any others.
    """

    def __init__(
        self,
        engine: Engine,
        serving: Serving,
        database: Database,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._engine = engine
        self._serving = serving
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        self._running = False

    async def run(self, plan: BenchmarkPlan, principal: Principal) -> Json:
        """Measure, keep the result, and return it. Cancelled, it frees all it holds.

        Args:
            plan: what to measure.
            principal: whose key pays for it.

        Raises:
            LmxError: MODEL_NOT_FOUND; CONFLICT `model_not_loaded` or `benchmark_running`;
                INVALID_REQUEST for a model of another kind, or a plan it cannot follow; what
                ended a request.
        """
        if self._running:
            raise _conflict("benchmark_running", "A benchmark is running; two would disturb it.")
        self._running = True
        try:
            result = await self._measured(plan, principal)
        finally:
            self._running = False
        return {**result, "stored": await self._store(result)}

    async def results(self, model: str | None, limit: int) -> list[Json]:
        """What was found before, the newest first; of one model (any reference) or of all.

        Raises UNAVAILABLE `store_unavailable`.
        """
        ref = None if model is None else self._known_as(model)
        found = await self._database.read(lambda link: rows.newest(link, ref, limit))
        return [msgspec.json.decode(body) for body in found]

    def _known_as(self, model: str) -> str:
        """The id of a model; as given for one that is gone, whose results are kept."""
        try:
            return self._engine.resolver.canonical(model)
        except LmxError:
            return model

    async def _measured(self, plan: BenchmarkPlan, principal: Principal) -> Json:
        caller = Caller(principal, CLIENT, Lane.BACKGROUND)
        runtime = self._loaded(plan.model)
        check_plan(plan, runtime, principal)
        bench = _Bench(plan, caller, self._enter, (self._clock, self._telemetry))
        await bench.prepare()
        watch = _Watch(self._engine, caller, self._clock)
        began = self._clock.monotonic()
        found = await watch.during(bench.runs())
        return {
            "id": uuid7(self._clock.now_ms()),
            "object": "benchmark",
            "model": runtime.plan.ref,
            "backend": runtime.plan.backend,
            "engine": "" if runtime.ready is None else runtime.ready.engine,
            "version": __version__,
            "created_ms": self._clock.now_ms(),
            "duration_s": round(self._clock.monotonic() - began, 3),
            "machine": machine(),
            "asked": {**msgspec.structs.asdict(plan), "model": plan.model},
            **msgspec.to_builtins(found),
            "disturbed": watch.others.most > 0,
            "others": msgspec.to_builtins(watch.others),
        }

    def _loaded(self, ref: str) -> ModelRuntime:
        runtime = self._engine.find(ref)
        if runtime is None or runtime.state is not ModelState.READY:
            name = self._engine.resolver.canonical(ref)
            raise _conflict(
                "model_not_loaded", f"Model '{name}' is not loaded; load it first.", "model"
            )
        return runtime

    def _enter(self, ref: str, caller: Caller) -> Ticket:
        """Pass the first gate; a model that was unloaded meanwhile is not loaded for this."""
        self._loaded(ref)
        return self._serving.gate(ref, caller=caller, param="concurrency")

    async def _store(self, result: Json) -> bool:
        """Keep a result; False where that cannot be done, which does not make it untrue."""
        row = {name: result[name] for name in ("id", "model", "created_ms")}
        row["body"] = msgspec.json.encode(result)
        try:
            await self._database.write(lambda link: rows.save(link, row))
        except LmxError:
            return False
        return True


class _Bench:
    """One benchmark: finds how long prompts are to be, and asks.

    Args:
        plan: what to measure.
        caller: who asks.
        enter: passes the first gate.
        ports: clock and telemetry.
    """

    def __init__(
        self,
        plan: BenchmarkPlan,
        caller: Caller,
        enter: Callable[[str, Caller], Ticket],
        ports: tuple[Clock, Telemetry],
    ) -> None:
        self._plan = plan
        self._caller = caller
        self._enter = enter
        self._ports = ports
        self._draw = system_random()
        self._words = _FEW

    async def prepare(self) -> None:
        """Measure how many tokens words have. Raises where fewer are wanted than there must be."""
        plan = self._plan
        few, many = await self._count(_FEW), await self._count(_MANY)
        per_word = max(0.1, (many - few) / (_MANY - _FEW))
        words = _FEW + round((plan.prompt_tokens - few) / per_word)
        if words < 1:
            raise invalid(
                f"'prompt_tokens' must be at least {round(few - (_FEW - 1) * per_word)}: the "
                "task and the model's template take as many.",
                param="prompt_tokens",
            )
        self._words = words

    async def runs(self) -> Figures:
        """All runs, summed up."""
        plan = self._plan
        kept: list[list[Sample]] = []
        for number in range(plan.warmup_runs + plan.runs):
            answers = await _side_by_side(self._answer() for _ in range(plan.concurrency))
            if number >= plan.warmup_runs:
                kept.append(answers)
        return figures(kept, plan.output_tokens)

    async def _count(self, words: int) -> int:
        async with self._run(words) as run:
            return await run.measure()

    async def _answer(self) -> Sample:
        clock, _ = self._ports
        began = clock.monotonic()
        stamps: list[float] = []
        pieces: list[bytes] = []
        async with self._run(self._words) as run:
            accepted = await run.open()
            if accepted.max_tokens < self._plan.output_tokens:
                raise invalid(
                    f"The model's window leaves {accepted.max_tokens} tokens of answer after a "
                    f"prompt of {accepted.prompt_tokens}.",
                    param="num_output_tokens",
                )
            async for event in run:
                stamps.append(clock.monotonic())
                pieces.append(event.piece)
            usage, prompt_s = run.usage, run.timing.prompt_s
        waited_s = stamps[0] - began - prompt_s if stamps else 0.0
        return Sample(
            began=began,
            stamps=tuple(stamps),
            text=b"".join(pieces).decode(errors="replace"),
            waited_s=max(0.0, waited_s),
            prompt_s=prompt_s,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
        )

    def _run(self, words: int) -> ModelRun:
        """A call of our own, below the accounts of a key: operators' tests are no use of it."""
        plan = self._plan
        drawn = " ".join(self._draw.choices(_WORDS, k=words))
        about = ", ".join(self._draw.sample(_WORDS, k=3))
        prompt = Prompt(messages=(Message("user", f"{drawn}{_TASK}{about}."),))
        wanted = GenerationRequest(plan.model, prompt, _GREEDY, plan.output_tokens)
        ticket = self._enter(plan.model, self._caller)
        limits = RunLimits(_PATIENCE_S)
        return ModelRun(ticket.runtime, ticket.numbers[0], wanted, limits, self._ports)


class _Watch:
    """Looks, while something runs, whether others hold slots.

    Args:
        engine: knows who does.
        caller: who is not another.
        clock: time.
    """

    def __init__(self, engine: Engine, caller: Caller, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        principal = caller.principal
        self._own = (caller.lane, principal.tenant, principal.key, caller.client)
        self._looks = self._seen = self._most = 0

    @property
    def others(self) -> Others:
        """What was seen."""
        return Others(round(self._seen / max(1, self._looks), 4), self._most)

    async def during(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run `work`, looking all the while. Raises what it raises."""
        watching = asyncio.ensure_future(self._watch())
        try:
            return await work
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _watch(self) -> None:
        while True:
            held = sum(
                depth.running
                for line in self._engine.queues().values()
                for depth in line
                if (depth.lane, depth.tenant, depth.key, depth.client) != self._own
            )
            self._looks += 1
            self._seen += held > 0
            self._most = max(self._most, held)
            await self._clock.sleep(_LOOK_S)


def check_plan(plan: BenchmarkPlan, runtime: ModelRuntime, principal: Principal) -> None:
    """Raise INVALID_REQUEST where a loaded model has no room for what is planned."""
    most = most_at_once(runtime, principal)
    if plan.concurrency > most:
        raise invalid(
            f"'concurrency' can be at most {most} here: a background job never takes the slots "
            "that are kept for others.",
            param="concurrency",
        )
    context = 0 if runtime.ready is None else runtime.ready.context
    if context and plan.prompt_tokens + plan.output_tokens > context:
        raise invalid(
            f"A prompt of {plan.prompt_tokens} tokens and an answer of {plan.output_tokens} do "
            f"not fit into the model's window of {context}.",
            param="prompt_tokens",
        )


def most_at_once(runtime: ModelRuntime, principal: Principal) -> int:
    """How many background requests of one client may run on a model together."""
    rules, slots = runtime.line.rules, runtime.line.width
    lane = rules.lanes[Lane.BACKGROUND]
    kept = rules.reserve if rules.always_reserve or not rules.preemptible else 0
    bounds = (principal.max_running, rules.client_max_running, lane.max_running)
    least = (bound for bound in bounds if bound is not None)
    return max(1, min((slots - max(lane.spare, kept), *least)))


def machine() -> Json:
    """What figures depend on; `load` is the number of processes that wanted a core lately."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0,)
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "load": round(load[0], 2),
    }


async def _side_by_side(answers: Iterable[Coroutine[Any, Any, Sample]]) -> list[Sample]:
    """All of them; the first failure ends the rest."""
    tasks = [asyncio.ensure_future(one) for one in answers]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _conflict(code: str, message: str, param: str | None = None) -> LmxError:
    return LmxError(ErrorKind.CONFLICT, message, code=code, param=param)
