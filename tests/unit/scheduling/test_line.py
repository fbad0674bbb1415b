"""The waiting line: bounded, in order, and never losing or doubling a slot."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.scheduling.line import WaitingLine
from opta_lmx.scheduling.retry import ServiceRate


def make_line(slots: int, max_waiting: int) -> WaitingLine:
    line = WaitingLine(max_waiting, ServiceRate())
    line.set_slots(slots)
    return line


def test_tickets_run_in_the_order_they_became_ready() -> None:
    line = make_line(slots=1, max_waiting=5)
    first, second, third = line.enter(), line.enter(), line.enter()
    for ticket in (second, first, third):
        line.mark_ready(ticket)
    granted: list[int | None] = []
    for _ in range(3):
        ticket = line.grant()
        granted.append(ticket)
        assert line.grant() is None
        assert ticket is not None
        line.release(ticket, 1.0)
    assert granted == [second, first, third]


def test_a_full_line_refuses_with_an_honest_wait() -> None:
    line = make_line(slots=2, max_waiting=3)
    for _ in range(2):
        line.mark_ready(line.enter())
        ticket = line.grant()
        assert ticket is not None
    line.release(1, 8.0)
    line.mark_ready(line.enter())
    assert line.grant() is not None
    for _ in range(3):
        line.enter()
    with pytest.raises(LmxError) as refused:
        line.enter()
    assert refused.value.kind is ErrorKind.RATE_LIMITED
    assert refused.value.retry_after == 16.0


def test_a_bound_of_zero_admits_only_what_can_run_at_once() -> None:
    line = make_line(slots=1, max_waiting=0)
    line.enter()
    with pytest.raises(LmxError):
        line.enter()


class LineMachine(RuleBasedStateMachine):
    """Random traffic against a model of who is where."""

    def __init__(self) -> None:
        super().__init__()
        self.line = make_line(slots=3, max_waiting=4)
        self.preparing: list[int] = []
        self.ready: list[int] = []
        self.running: list[int] = []

    @rule()
    def enter(self) -> None:
        waiting = len(self.preparing) + len(self.ready)
        free = max(0, self.line.slots - len(self.running))
        if waiting >= free + 4:
            with pytest.raises(LmxError):
                self.line.enter()
        else:
            self.preparing.append(self.line.enter())

    @precondition(lambda self: self.preparing)
    @rule(data=st.data())
    def mark_ready(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.preparing))
        self.preparing.remove(ticket)
        self.line.mark_ready(ticket)
        self.ready.append(ticket)

    @rule()
    def grant(self) -> None:
        ticket = self.line.grant()
        if self.ready and len(self.running) < self.line.slots:
            assert ticket == self.ready.pop(0)
            self.running.append(ticket)
        else:
            assert ticket is None

    @precondition(lambda self: self.running)
    @rule(data=st.data(), seconds=st.none() | st.floats(0, 100))
    def release(self, data: st.DataObject, seconds: float | None) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        self.running.remove(ticket)
        self.line.release(ticket, seconds)
        self.line.release(ticket, seconds)

    @precondition(lambda self: self.preparing or self.ready)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.preparing + self.ready))
        self.line.leave(ticket)
        self.preparing = [other for other in self.preparing if other != ticket]
        self.ready = [other for other in self.ready if other != ticket]

    @rule()
    def worker_dies(self) -> None:
        self.line.clear_running()
        self.running.clear()

    @rule(slots=st.integers(1, 5))
    def resize(self, slots: int) -> None:
        self.line.set_slots(slots)

    @invariant()
    def counts_agree(self) -> None:
        assert self.line.waiting == len(self.preparing) + len(self.ready)
        assert self.line.running == len(self.running)
        assert 1 <= self.line.retry_after() <= 60


LineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLine = LineMachine.TestCase
