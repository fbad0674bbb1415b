"""The line is held to the limit that steps allow, and nobody who runs is cut."""

from opta_lmx.backends.frames import Started, Step
from opta_lmx.core.principal import Caller
from opta_lmx.engine.throttle import Throttle
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import LineRules, Work
from tests.support.clocks import HandClock

SLOTS = 8


class Rig:
    """A line of twenty, as many as possible of them running."""

    def __init__(self, *, adaptive: bool = True) -> None:
        self.line = FairLine(LineRules(max_waiting=99, reserve=0, preemptible=True), HandClock())
        self.line.set_slots(SLOTS)
        self.throttle = Throttle(self.line, adaptive=adaptive)
        self.throttle.resume(SLOTS)
        for ticket in self.line.enter_many(20, Caller()):
            self.line.mark_ready(ticket, Work(5))
        self.rows: list[int] = []
        self.fill()

    def fill(self) -> int:
        while (ticket := self.line.grant()) is not None:
            self.rows.append(ticket)
        return self.line.running

    def steps(self, count: int, ms: float, *, alone: bool = True, prompt: bool = False) -> bool:
        started = (Started(1, 0),) if prompt else ()
        step = Step(1, ms, started=started, rows=SLOTS)
        rose = [self.throttle.stepped(step, alone=alone) for _ in range(count)]
        return True in rose

    def end(self) -> int:
        self.line.release(self.rows.pop(0))
        self.throttle.freed()
        return self.fill()


def test_a_lower_limit_holds_for_who_comes_next() -> None:
    rig = Rig()
    assert not rig.steps(60, 10.0)
    assert not rig.steps(60, 40.0)
    assert rig.throttle.limit == 1
    assert (rig.line.running, rig.line.slots) == (SLOTS, SLOTS)
    assert [rig.end() for _ in range(SLOTS)] == [7, 6, 5, 4, 3, 2, 1, 1]


def test_a_row_can_still_be_exchanged_for_another() -> None:
    rig = Rig()
    rig.steps(60, 10.0)
    rig.steps(60, 40.0)
    rig.line.yielded(rig.rows.pop(0))
    assert rig.fill() == SLOTS


def test_a_limit_that_rises_lets_more_in() -> None:
    rig = Rig()
    rig.steps(60, 10.0)
    rig.steps(60, 40.0)
    while rig.line.running > 1:
        rig.end()
    assert rig.steps(200, 10.0)
    assert rig.throttle.limit == SLOTS
    assert rig.fill() == SLOTS


def test_steps_with_prompts_or_beside_others_do_not_count() -> None:
    rig = Rig()
    rig.steps(60, 10.0)
    rig.steps(60, 90.0, prompt=True)
    rig.steps(60, 90.0, alone=False)
    assert rig.throttle.limit == SLOTS


def test_it_can_be_off_and_a_new_worker_starts_with_all() -> None:
    rig = Rig(adaptive=False)
    rig.steps(60, 10.0)
    rig.steps(60, 90.0)
    assert rig.throttle.limit == SLOTS
    rig = Rig()
    rig.steps(60, 10.0)
    rig.steps(60, 90.0)
    rig.end()
    rig.throttle.resume(6)
    rig.line.set_slots(6)
    assert (rig.throttle.limit, rig.line.slots) == (6, 6)
