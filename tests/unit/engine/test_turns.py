"""Turns: no slot is lost or doubled, no answer has a gap, whatever comes in which order."""

import asyncio
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from opta_lmx.backends.frames import Cancel, Ready, Step, Submit, TokenOut
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Caller, Principal
from opta_lmx.core.types import DEFAULT_SAMPLING
from opta_lmx.engine.caching import NoCache
from opta_lmx.engine.course import Course
from opta_lmx.engine.stream import TokenStream
from opta_lmx.engine.turns import Turns
from opta_lmx.engine.worker import WorkerHandle, worker_died
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import LaneRule, LineRules, Pausing
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock

LANES = (LaneRule(8.0, patience_s=0.0), LaneRule(4.0, patience_s=0.0), LaneRule(1.0))
PAUSING = Pausing(slice_tokens=1, progress_tokens=1, calm_s=0.0)
RULES = LineRules(max_waiting=50, lanes=LANES, quantum=0.0, reserve=0, pausing=PAUSING)


class Worker:
    """Rows that say their next number when told to, and let go when they like."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.rows: dict[int, tuple[int, TokenStream, int]] = {}
        self.first: list[int] = []
        self.cancelled: list[Cancel] = []

    def submit(self, request: Submit, stream: TokenStream) -> None:
        assert request.id not in self.rows
        assert len(self.rows) < self.slots
        assert request.generated == tuple(range(1, len(request.generated) + 1))
        self.rows[request.id] = (len(request.generated), stream, request.max_tokens)
        self.first += [request.id] * request.first

    def cancel(self, request: Cancel) -> None:
        self.cancelled.append(request)

    def say(self, ticket: int) -> TokenOut:
        """One more token; the row is gone after its last."""
        done, stream, most = self.rows[ticket]
        token = TokenOut(ticket, done + 1, b"x", "length" if done + 1 == most else None)
        stream.push(token)
        self.rows[ticket] = (done + 1, stream, most)
        if token.finish:
            del self.rows[ticket]
        return token


class Rig:
    """Turns over a worker that does as it is told."""

    def __init__(self, slots: int, *, pauses: bool = True) -> None:
        self.clock = HandClock()
        self.ready = Ready(100, slots, resumes="all", pauses=pauses)
        self.turns = Turns(FairLine(RULES, self.clock), NoCache(), self.clock)
        self.worker: Worker | None = None
        self.came: dict[int, asyncio.Task[Course]] = {}
        self.start()

    @property
    def rows(self) -> dict[int, tuple[int, TokenStream, int]]:
        return {} if self.worker is None else self.worker.rows

    def start(self) -> None:
        self.worker = Worker(self.ready.slots)
        self.turns.resume(cast("WorkerHandle", self.worker), self.ready)

    def die(self) -> None:
        self.worker = None
        self.turns.suspend(worker_died("m"))

    def ask(self, key: str, most: int = 4) -> int:
        caller = Caller(Principal(key=key))
        (ticket,) = self.turns.line.enter_many(1, caller)
        request = Submit(ticket, (1, 2, ticket), DEFAULT_SAMPLING, most)
        self.came[ticket] = asyncio.ensure_future(self._come(Course(request, caller)))
        return ticket

    async def _come(self, course: Course) -> Course:
        await self.turns.come(course)
        self.turns.begin(course)
        return course

    def say(self, ticket: int) -> None:
        assert self.worker is not None
        token = self.worker.say(ticket)
        self.turns.stepped(Step(1, 1.0, (token,)))
        if token.finish:
            self.let_go(ticket)

    def let_go(self, ticket: int) -> None:
        self.rows.pop(ticket, None)
        self.turns.released(ticket)

    def course(self, ticket: int) -> Course | None:
        task = self.came[ticket]
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()


async def settled() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


@in_loop
async def test_a_row_makes_room_and_goes_on_where_it_was() -> None:
    rig = Rig(1)
    hog = rig.ask("hog", 6)
    await settled()
    rig.say(hog)
    rig.say(hog)
    other = rig.ask("other", 2)
    await settled()
    assert rig.worker is not None
    assert rig.worker.cancelled == [Cancel(hog, hold=True)]
    rig.say(hog)
    rig.let_go(hog)
    await settled()
    assert [*rig.rows] == [other]
    assert rig.turns.position(hog) is not None
    assert rig.turns.position(other) is None
    rig.say(other)
    rig.say(other)
    assert rig.rows[hog][0] == 3
    for _ in range(3):
        rig.say(hog)
    course = rig.course(hog)
    assert course is not None
    assert course.stream.ids == [1, 2, 3, 4, 5, 6]
    assert (rig.turns.line.running, rig.turns.line.waiting) == (0, 0)


@in_loop
async def test_an_answer_that_ends_as_it_is_asked_to_pause_has_ended() -> None:
    rig = Rig(1)
    hog = rig.ask("hog", 2)
    await settled()
    rig.say(hog)
    other = rig.ask("other", 2)
    await settled()
    rig.say(hog)
    await settled()
    course = rig.course(hog)
    assert course is not None
    assert course.stream.finished
    assert [*rig.rows] == [other]
    assert (rig.turns.line.running, rig.turns.line.waiting) == (1, 0)


@in_loop
async def test_who_leaves_while_asked_to_pause_does_not_come_back() -> None:
    rig = Rig(1)
    hog = rig.ask("hog", 9)
    await settled()
    rig.say(hog)
    other = rig.ask("other", 2)
    await settled()
    rig.turns.stop(hog, 1)
    rig.let_go(hog)
    await settled()
    assert [*rig.rows] == [other]
    assert (rig.turns.line.running, rig.turns.line.waiting) == (1, 0)


@in_loop
async def test_who_leaves_while_paused_is_not_run_again() -> None:
    rig = Rig(1)
    hog = rig.ask("hog", 9)
    await settled()
    rig.say(hog)
    other = rig.ask("other", 1)
    await settled()
    rig.let_go(hog)
    await settled()
    rig.turns.stop(hog, 1)
    assert (rig.turns.line.running, rig.turns.line.waiting) == (1, 0)
    rig.say(other)
    await settled()
    assert not rig.rows


@in_loop
async def test_a_slot_granted_by_a_worker_that_then_died_is_granted_anew() -> None:
    rig = Rig(1)
    first, second = rig.ask("one", 1), rig.ask("two")
    await settled()
    rig.say(first)
    assert (rig.turns.line.running, rig.rows) == (1, {})
    rig.die()
    await settled()
    assert (rig.turns.line.running, rig.turns.line.waiting) == (0, 1)
    rig.start()
    await settled()
    assert [*rig.rows] == [second]


@in_loop
async def test_a_row_that_ends_without_a_word_is_an_error_not_a_silence() -> None:
    rig = Rig(1)
    ticket = rig.ask("one")
    await settled()
    rig.let_go(ticket)
    course = rig.course(ticket)
    assert course is not None
    with pytest.raises(LmxError) as error:
        await anext(course.stream)
    assert error.value.kind is ErrorKind.INTERNAL


class TurnsMachine(RuleBasedStateMachine):
    """Everything that may happen, in any order, with everybody's answer read in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stopped: set[int] = set()

    @initialize(slots=st.integers(1, 3), pauses=st.booleans())
    def begin(self, slots: int, pauses: bool) -> None:
        async def make() -> Rig:
            return Rig(slots, pauses=pauses)

        self.rig = self.loop.run_until_complete(make())

    def _do(self, what: str, *args: object) -> None:
        async def act() -> None:
            getattr(self.rig, what)(*args)
            self.rig.clock.now += 0.01
            await settled()

        self.loop.run_until_complete(act())

    @rule(key=st.sampled_from("abc"), most=st.integers(1, 5))
    def ask(self, key: str, most: int) -> None:
        if len(self.rig.came) < 30:
            self._do("ask", key, most)

    @precondition(lambda self: self.rig.rows)
    @rule(data=st.data())
    def say(self, data: st.DataObject) -> None:
        self._do("say", data.draw(st.sampled_from(sorted(self.rig.rows))))

    @precondition(lambda self: self._asked_to_go())
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self._do("let_go", data.draw(st.sampled_from(self._asked_to_go())))

    def _asked_to_go(self) -> list[int]:
        worker = self.rig.worker
        return [] if worker is None else [c.id for c in worker.cancelled if c.id in worker.rows]

    @precondition(lambda self: self.rig.worker is not None)
    @rule()
    def die(self) -> None:
        self._do("die")

    @precondition(lambda self: self.rig.worker is None)
    @rule()
    def start(self) -> None:
        self._do("start")

    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        left = [one for one in self.rig.came if one not in self.stopped]
        if left:
            ticket = data.draw(st.sampled_from(left))
            self.stopped.add(ticket)
            self.loop.run_until_complete(self._leave(ticket))

    async def _leave(self, ticket: int) -> None:
        task = self.rig.came[ticket]
        if task.done():
            course = task.result()
            if not course.over:
                self.rig.turns.stop(ticket)
        else:
            task.cancel()
            await asyncio.wait([task])
            self.rig.turns.leave(ticket)
        await settled()

    @invariant()
    def slots_are_counted_right(self) -> None:
        line = self.rig.turns.line
        assert line.running == len(self.rig.rows)
        assert line.running <= self.rig.ready.slots
        if self.rig.worker is not None and not self._asked_to_go():
            held = self.rig.rows and not self.rig.turns.suspects.none
            assert line.running == self.rig.ready.slots or not line.waiting or held

    @invariant()
    def one_is_tried_at_a_time(self) -> None:
        suspects = self.rig.turns.suspects
        assert sum(suspects.on_trial({ticket}) for ticket in self.rig.rows) <= 1

    @invariant()
    def answers_have_no_gap(self) -> None:
        for ticket in self.rig.came:
            course = self.rig.course(ticket)
            if course is not None:
                ids = course.stream.ids
                assert ids == list(range(1, len(ids) + 1))
                assert course.stream.finished == (len(ids) == course.request.max_tokens)

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        if self.rig.worker is None:
            self._do("start")
        for _ in range(400):
            if self._asked_to_go():
                self._do("let_go", self._asked_to_go()[0])
            elif self.rig.rows:
                self._do("say", next(iter(self.rig.rows)))
        line = self.rig.turns.line
        assert (line.running, line.waiting) == (0, 0)
        for ticket, task in self.rig.came.items():
            assert task.done()
            if ticket not in self.stopped:
                assert task.result().over
        self.loop.close()


TestTurns = TurnsMachine.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@in_loop
async def test_the_worker_is_told_who_is_the_only_one_of_its_key() -> None:
    rig = Rig(4, pauses=False)
    greedy = rig.ask("a")
    await settled()
    rig.ask("a")
    modest = rig.ask("b")
    await settled()
    assert rig.worker is not None
    assert len(rig.worker.rows) == 3
    assert rig.worker.first == [greedy, modest]
