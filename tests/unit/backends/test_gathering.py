"""An engine that has rested waits a moment for requests that are almost there."""

import queue
import socket
from typing import Any

import pytest

from opta_lmx.backends.frames import Cancel, Submit, ToWorker
from opta_lmx.backends.gathering import LONGEST_S, Gathering
from opta_lmx.backends.worker import Worker
from opta_lmx.core.types import SamplingParams
from tests.support.clocks import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def gathering(clock: HandClock) -> Gathering:
    return Gathering(clock)


def test_nobody_waits_for_nobody(gathering: Gathering, clock: HandClock) -> None:
    gathering.expect(1)
    gathering.settle(1)
    gathering.settle(7)
    assert gathering.left_s(clock.monotonic()) == 0.0


def test_the_first_waits_for_those_on_their_way_but_not_for_long(
    gathering: Gathering, clock: HandClock
) -> None:
    began = clock.monotonic()
    for part in (1, 2, 3):
        gathering.expect(part)  # somebody new is always coming
        assert gathering.left_s(began) == pytest.approx(LONGEST_S * (4 - part) / 3)
        clock.now += LONGEST_S / 3
    gathering.expect(4)
    assert gathering.left_s(began) == 0.0


def test_who_takes_too_long_is_not_waited_for_again(gathering: Gathering, clock: HandClock) -> None:
    gathering.expect(1)
    clock.now += LONGEST_S
    assert gathering.left_s(clock.monotonic()) == 0.0


class Commands:
    """A queue that tells how long it was waited at."""

    def __init__(self, *commands: ToWorker) -> None:
        self._left = list(commands)
        self.waited: list[float | None] = []

    def get(self, *, block: bool, timeout: float | None) -> ToWorker:
        self.waited.append(timeout if block else 0.0)
        if not self._left:
            raise queue.Empty
        return self._left.pop(0)


class Taking:
    """An engine that only notes what it is given."""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy
        self.taken: list[int] = []

    def submit(self, request: Submit) -> None:
        self.taken.append(request.id)
        self.busy = True

    def cancel(self, request: Cancel) -> None:
        self.taken.append(-request.id)


def asked(number: int) -> Submit:
    return Submit(number, (1,), SamplingParams(), 1)


def waits(clock: HandClock, coming: list[int], *, busy: bool) -> list[float | None]:
    """How long a worker waits at each command: two requests and a cancellation."""
    left, right = socket.socketpair()
    with left, right:
        worker: Any = Worker(left)
    worker._clock, worker._gathering = clock, Gathering(clock)
    worker._commands = commands = Commands(asked(1), Cancel(9), asked(2))
    for number in coming:
        worker._gathering.expect(number)
    engine: Any = Taking(busy=busy)
    worker._apply_commands(engine)
    assert engine.taken == [1, -9, 2]
    return commands.waited


def test_a_worker_at_rest_takes_all_who_come_at_one_moment(clock: HandClock) -> None:
    """It waits without end for the first, briefly while one is coming, and then no more."""
    assert waits(clock, [1, 2], busy=False) == [None, LONGEST_S, LONGEST_S, 0.0]
    assert waits(clock, [1, 2, 3], busy=False) == [None, LONGEST_S, LONGEST_S, LONGEST_S]


def test_rows_that_run_and_requests_alone_wait_for_nobody(clock: HandClock) -> None:
    assert waits(clock, [1], busy=False) == [None, 0.0, 0.0, 0.0]
    assert waits(clock, [1, 2, 3], busy=True) == [0.0, 0.0, 0.0, 0.0]
