"""Two models on one device, in simulated time: who begins, who pauses, and that nobody hangs."""

import asyncio
import heapq
import random
from collections.abc import Iterator
from itertools import count
from typing import cast

import pytest

from opta_lmx.backends.frames import Cancel, Ready, Started, Step, Submit, TokenOut
from opta_lmx.core.principal import Caller, Lane, Principal
from opta_lmx.core.types import DEFAULT_SAMPLING
from opta_lmx.engine.caching import NoCache
from opta_lmx.engine.course import Course
from opta_lmx.engine.device import Device
from opta_lmx.engine.stream import TokenStream
from opta_lmx.engine.turns import Turns
from opta_lmx.engine.worker import WorkerHandle, worker_died
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.governor import STUCK_S
from opta_lmx.scheduling.rules import LineRules
from tests.support.asynchronous import in_loop

CHUNK_MS = 50.0
DECODE_MS = 10.0
ROW_MS = 2.0


class StepClock:
    """Time that the simulation moves; who sleeps is woken when it gets there."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        until = self.now + seconds
        await settled()
        while self._sleepers and self._sleepers[0][0] <= until:
            self.now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await settled()
        self.now = until


async def settled() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


class Row:
    """A request in the worker: prompt left to process (ms), and its answer."""

    def __init__(self, request: Submit, stream: TokenStream, prompt_ms: float) -> None:
        self.request = request
        self.stream = stream
        self.prompt_ms = prompt_ms
        self.began = False
        self.done = len(request.generated)


class Keeping(NoCache):
    """A cache that holds whatever a paused row has computed."""

    def hold(self, ticket: int) -> bool:
        return True


class Worker:
    """An engine whose steps take device time: one chunk of one prompt, one token of each row."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.left: list[int] = []
        self.kept: dict[int, float] = {}
        self.hangs = False
        self.steps = 0

    def submit(self, request: Submit, stream: TokenStream) -> None:
        # What was processed before a pause is in cache.
        prompt_ms = self.kept.pop(request.id, 0.0) or float(len(request.ids))
        if request.generated:
            prompt_ms = 1.0
        self.rows[request.id] = Row(request, stream, prompt_ms)

    def cancel(self, request: Cancel) -> None:
        if request.id in self.rows and not self.hangs:
            row = self.rows.pop(request.id)
            if request.hold:
                self.kept[request.id] = row.prompt_ms
            self.left.append(request.id)

    @property
    def works(self) -> bool:
        return bool(self.rows) and not self.hangs

    def step(self) -> tuple[float, Step]:
        """The length of the step (ms), and what it tells when it has ended."""
        rows = list(self.rows.values())
        decoding = [row for row in rows if row.prompt_ms <= 0]
        prompt = next((row for row in rows if row.prompt_ms > 0), None)
        ms = (DECODE_MS + ROW_MS * len(decoding)) * bool(decoding)
        started: tuple[Started, ...] = ()
        progress: tuple[tuple[int, int, int], ...] = ()
        if prompt is not None:
            part = min(CHUNK_MS, prompt.prompt_ms)
            ms += part
            prompt.prompt_ms -= part
            if not prompt.began:
                started = (Started(prompt.request.id, 0),)
                prompt.began = True
            progress = ((prompt.request.id, 1, 1),)
        tokens = tuple(self._say(row) for row in decoding)
        self.steps += 1
        return ms, Step(self.steps, ms, tokens, started, progress, len(tokens))

    def _say(self, row: Row) -> TokenOut:
        row.done += 1
        last = row.done == row.request.max_tokens
        if last:
            del self.rows[row.request.id]
            self.left.append(row.request.id)
        return TokenOut(row.request.id, row.done, b"x", "length" if last else None)


class Model:
    """Turns over a simulated worker."""

    def __init__(self, machine: "Machine", name: str, *, pauses: bool) -> None:
        self.machine = machine
        self.worker = Worker()
        self.ready = Ready(100, 4, resumes="all", pauses=pauses)
        line = FairLine(LineRules(max_waiting=99, reserve=0), machine.clock)
        device = machine.device if machine.governed else Device(machine.clock)
        self.seat = device.seat(name, line)
        self.turns = Turns(line, Keeping(), machine.clock, self.seat)
        self.turns.resume(cast("WorkerHandle", self.worker), self.ready)
        self.streams: dict[int, TokenStream] = {}

    def die(self) -> None:
        self.worker = Worker()
        self.turns.suspend(worker_died("m"))

    def start(self) -> None:
        self.worker = Worker()
        self.turns.resume(cast("WorkerHandle", self.worker), self.ready)

    async def ask(self, caller: Caller, prompt_ms: int, most: int) -> TokenStream:
        """Come to the turn and begin."""
        (ticket,) = self.turns.line.enter_many(1, caller)
        request = Submit(ticket, (1,) * prompt_ms, DEFAULT_SAMPLING, most)
        course = Course(request, caller)
        await self.turns.come(course)
        self.turns.begin(course)
        return course.stream


class Machine:
    """The device: one step of one worker at a time, the workers in turn."""

    def __init__(self, *, governed: bool = True) -> None:
        self.clock = StepClock()
        self.governed = governed
        self.device = Device(self.clock)
        self.models: list[Model] = []
        self.spent: dict[int, float] = {}
        self._turn = self._round_robin()

    def model(self, name: str, *, pauses: bool = True) -> Model:
        self.models.append(Model(self, name, pauses=pauses))
        return self.models[-1]

    def _round_robin(self) -> Iterator[Model | None]:
        while True:
            able = [model for model in self.models if model.worker.works]
            yield from able or [None]

    async def step(self) -> None:
        """Let one worker take one step, or a millisecond pass."""
        model = next(self._turn)
        if model is None or not model.worker.works:
            await self.clock.advance(0.002)
            await self._release()
            return
        ms, step = model.worker.step()
        await self.clock.advance(ms / 1000)
        self.spent[id(model)] = self.spent.get(id(model), 0.0) + ms
        for token in step.tokens:
            self.stream(model, token)
        model.turns.stepped(step)
        await self._release()

    def stream(self, model: Model, token: TokenOut) -> None:
        course = model.turns._courses.get(token.request)
        if course is not None:
            course.stream.push(token)

    async def _release(self) -> None:
        for model in self.models:
            while model.worker.left:
                model.turns.released(model.worker.left.pop(0))
        await settled()

    async def until(self, task: asyncio.Future[object], limit_s: float = 60.0) -> None:
        end = self.clock.now + limit_s
        while not task.done():
            assert self.clock.now < end, "nobody goes on"
            await self.step()

    async def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            await self.step()


def caller(lane: Lane, name: str = "") -> Caller:
    return Caller(Principal(key=name or lane.name), lane=lane)


async def first_token_s(machine: Machine, model: Model, prompt_ms: int, most: int = 12) -> float:
    """Seconds from asking to the first token; the answer is read to its end."""

    async def read() -> float:
        began = machine.clock.now
        stream = await model.ask(caller(Lane.INTERACTIVE, "bot"), prompt_ms, most)
        first = 0.0
        async for _ in stream:
            first = first or machine.clock.now - began
        return first

    task = asyncio.ensure_future(read())
    await machine.until(task)
    return task.result()


def flood(model: Model, lane: Lane, prompt_ms: int, most: int) -> list[asyncio.Task[None]]:
    """Keep ten requests in flight; each task counts as one after the other."""

    async def one() -> None:
        while True:
            async for _ in await model.ask(caller(lane), prompt_ms, most):
                pass

    return [asyncio.ensure_future(one()) for _ in range(10)]


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def beside_a_flood(prompt_ms: int, *, governed: bool) -> tuple[float, float, float]:
    """First token alone, its 95th percentile beside background, and background's share."""
    machine, draw = Machine(governed=governed), random.Random(1)
    jobs, chat = machine.model("jobs"), machine.model("chat")
    solo = await first_token_s(machine, chat, prompt_ms)
    tasks = flood(jobs, Lane.BACKGROUND, 400, 8)
    await machine.run(1.0)
    times, spent, passed = list[float](), 0.0, 0.0
    for _ in range(40):
        await machine.run(draw.uniform(0.0, 0.2))
        before, began = machine.spent[id(jobs)], machine.clock.now
        times.append(await first_token_s(machine, chat, prompt_ms, 40))
        spent += machine.spent[id(jobs)] - before
        passed += (machine.clock.now - began) * 1000
    await ended(tasks)
    machine.device.close()
    return solo, sorted(times)[37], spent / passed


@pytest.mark.parametrize("prompt_ms", [150, 500, 2000])
@in_loop
async def test_background_of_another_model_is_hardly_noticed(prompt_ms: int) -> None:
    solo, p95, share = await beside_a_flood(prompt_ms, governed=True)
    assert p95 <= max(2 * solo, solo + 0.2)
    # It is not starved either: its share, and the burst of each time.
    assert 0.1 <= share <= 0.4
    _, ungoverned, _ = await beside_a_flood(prompt_ms, governed=False)
    assert ungoverned > max(2 * solo, solo + 0.2)
    assert ungoverned > 1.3 * p95


@in_loop
async def test_a_model_where_nobody_may_begin_takes_no_turn() -> None:
    model = (machine := Machine()).model("m", pauses=False)
    tasks = flood(model, Lane.INTERACTIVE, 10, 400)
    await machine.run(1.0)
    model.die()
    model.start()
    await machine.run(0.1)
    assert (model.turns.line.running, model.seat.prompts(), model.seat.begins) == (1, {}, False)
    await ended(tasks)


@in_loop
async def test_a_model_alone_is_left_alone() -> None:
    machine = Machine()
    one, other = machine.model("one"), machine.model("other")
    await first_token_s(machine, other, 100)
    tasks = flood(one, Lane.BACKGROUND, 100, 30)
    chat = flood(one, Lane.INTERACTIVE, 100, 30)[:1]
    await machine.run(2.0)
    assert machine.device._watch is None
    assert not any(row.stops for row in one.turns.line.rows)
    await ended([*tasks, *chat])


@in_loop
async def test_what_ran_beside_another_model_says_nothing_of_a_model() -> None:
    machine = Machine()
    one, other = machine.model("one"), machine.model("other")
    seen: list[bool] = []
    usual = one.seat.throttle.stepped

    def noting(step: Step, *, alone: bool) -> bool:
        seen.append(alone)
        return usual(step, alone=alone)

    one.seat.throttle.stepped = noting  # type: ignore[method-assign]
    await first_token_s(machine, one, 100)
    assert all(seen)
    tasks = flood(other, Lane.AGENT, 100, 10)
    await first_token_s(machine, one, 100)
    assert not all(seen)
    await ended(tasks)
    for ticket in list(other.worker.rows):
        other.turns.stop(ticket)
    await machine.run(0.3)
    seen.clear()
    await first_token_s(machine, one, 100)
    assert all(seen)


@in_loop
async def test_prompts_of_equals_are_processed_in_turns() -> None:
    machine = Machine()
    one, other = machine.model("one"), machine.model("other")
    tasks = flood(one, Lane.AGENT, 300, 2) + flood(other, Lane.AGENT, 300, 2)
    await machine.run(30.0)
    first, second = (machine.spent[id(model)] for model in (one, other))
    assert 0.8 < first / second < 1.25
    await ended(tasks)
    machine.device.close()


@in_loop
async def test_a_prompt_waits_for_the_turn_of_another() -> None:
    machine = Machine()
    one, other = machine.model("one"), machine.model("other")
    await one.ask(caller(Lane.INTERACTIVE), 150, 2)
    second = asyncio.ensure_future(other.ask(caller(Lane.INTERACTIVE), 100, 2))
    await settled()
    assert not other.worker.rows
    while not second.done():
        assert not any(row.stint for row in one.turns.line.rows)
        await machine.step()
    assert all(row.stint for row in one.turns.line.rows)
    await machine.run(0.5)
    # A long one is waited for until its turn is over.
    await one.ask(caller(Lane.INTERACTIVE), 2000, 2)
    assert 0.25 < await first_token_s(machine, other, 50) < 0.6
    assert not any(row.stint for row in one.turns.line.rows)
    machine.device.close()


@pytest.mark.parametrize("way", ["hang", "die", "close"])
@in_loop
async def test_a_model_in_trouble_holds_up_nobody(way: str) -> None:
    machine = Machine()
    one, other = machine.model("one"), machine.model("other")
    tasks = flood(one, Lane.INTERACTIVE, 5000, 5)
    await machine.run(0.2)
    if way == "hang":
        one.worker.hangs = True
    elif way == "die":
        one.die()
    else:
        one.turns.close(worker_died("m"))
    limit_s = (STUCK_S if way == "hang" else 0) + 0.3
    assert await first_token_s(machine, other, 100) < limit_s
    # It has lost its turn for good, until it gives a sign.
    assert await first_token_s(machine, other, 100) < 0.3
    assert not machine.device.shared
    await ended(tasks)
    machine.device.close()


@in_loop
async def test_background_goes_on_though_the_interactive_model_hangs() -> None:
    machine = Machine()
    jobs, chat = machine.model("jobs"), machine.model("chat")
    tasks = flood(jobs, Lane.BACKGROUND, 50, 20)
    await machine.run(0.5)
    asking = asyncio.ensure_future(chat.ask(caller(Lane.INTERACTIVE), 100, 9))
    await machine.until(asking)
    chat.worker.hangs = True
    before, began = machine.spent[id(jobs)], machine.clock.now
    await machine.run(8.0)
    elapsed_ms = (machine.clock.now - began) * 1000
    assert 0.15 <= (machine.spent[id(jobs)] - before) / elapsed_ms <= 0.3
    await ended(tasks)
    machine.device.close()


@in_loop
async def test_where_rows_cannot_pause_only_new_ones_are_held() -> None:
    machine = Machine()
    jobs, chat = machine.model("jobs", pauses=False), machine.model("chat")
    tasks = flood(jobs, Lane.BACKGROUND, 10, 8)
    await machine.run(1.0)
    asking = asyncio.ensure_future(chat.ask(caller(Lane.INTERACTIVE), 1000, 2))
    while not chat.worker.rows:
        await machine.step()
    running = set(jobs.worker.rows)
    await machine.run(0.6)
    assert set(jobs.worker.rows) < running
    assert jobs.turns.line.waiting
    await machine.until(asking)
    assert not jobs.worker.kept
    await ended(tasks)
    machine.device.close()


async def trouble(seed: int) -> None:
    """Three models, callers of all lanes, workers that hang and die: all answers come."""
    draw = random.Random(seed)
    machine = Machine()
    models = [machine.model(name, pauses=draw.random() < 0.7) for name in "abc"]
    lengths: list[int] = []

    async def read(model: Model, who: Caller, prompt_ms: int, most: int) -> None:
        stream = await model.ask(who, prompt_ms, most)
        lengths.append(len([token async for token in stream]) - most)

    tasks: list[asyncio.Task[None]] = []
    dead: set[int] = set()
    for _ in range(60):
        who = caller(draw.choice(list(Lane)), draw.choice("xyz"))
        model = draw.choice(models)
        tasks.append(
            asyncio.ensure_future(read(model, who, draw.randint(1, 600), draw.randint(1, 30)))
        )
        await machine.run(draw.uniform(0, 0.4))
        at = draw.randrange(3)
        if at in dead:
            models[at].start()
            dead.discard(at)
        elif draw.random() < 0.03:
            models[at].die()
            dead.add(at)
        models[at].worker.hangs = draw.random() < 0.05
    for at, model in enumerate(models):
        model.worker.hangs = False
        if at in dead:
            model.start()
    await machine.until(asyncio.gather(*tasks, return_exceptions=True), 200)
    assert [one for one in lengths if one] == []
    assert not machine.device.shared
    for model in models:
        assert (model.turns.line.running, model.turns.line.waiting) == (0, 0)
        assert not any(state.barred for state in model.turns.line._order.lanes)
    machine.device.close()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_everybody_is_served(seed: int) -> None:
    asyncio.run(trouble(seed))


@in_loop
async def test_background_is_held_in_a_model_that_others_use_too() -> None:
    machine = Machine()
    jobs, chat = machine.model("jobs"), machine.model("chat")
    await chat.ask(caller(Lane.INTERACTIVE), 10, 500)
    await machine.run(0.05)
    tasks = flood(jobs, Lane.BACKGROUND, 50, 4) + flood(jobs, Lane.AGENT, 50, 4)[:1]
    lanes: set[Lane] = set()
    end = machine.clock.now + 0.2
    while machine.clock.now < end:
        await machine.step()
        lanes.update(row.caller.lane for row in jobs.turns.line.rows)
    assert lanes == {Lane.AGENT}
    await ended(tasks)
    machine.device.close()
