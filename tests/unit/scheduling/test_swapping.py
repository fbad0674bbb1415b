"""Models without room beside each other take turns; in simulated time."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opta_lmx.core.errors import LmxError
from opta_lmx.scheduling.ledger import MemoryLedger, MemoryNeed
from opta_lmx.scheduling.swapping import LULL_S, Swaps

TURN_S = 20.0
LOAD_S = 5.0
STEP_S = 0.25
BUDGET = 10
NEED = MemoryNeed(6, load_s=LOAD_S)


class Model:
    """One model's requests: when each came, and when those that run will have ended."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: deque[tuple[float, float]] = deque()
        self.running: list[float] = []
        self.up_at = math.inf
        self.shut = False
        self.left_at = -math.inf

    @property
    def users(self) -> int:
        return len(self.running) + (0 if self.shut else len(self.waiting))


class Machine:
    """A server as far as turns go: it loads, begins and ends requests as the line lets it."""

    def __init__(self, turn_s: float = TURN_S, slots: int = 1, need: MemoryNeed = NEED) -> None:
        self.ledger = MemoryLedger(BUDGET)
        self.swaps = Swaps(self.ledger, turn_s)
        self.need, self.slots = need, slots
        self.models: dict[str, Model] = {}
        self.now = 0.0
        self.waits: list[float] = []
        self.loads: list[tuple[float, str]] = []
        self.cut = 0

    def ask(self, name: str, lasts_s: float) -> None:
        model = self.models.setdefault(name, Model(self.slots))
        model.waiting.append((self.now, lasts_s))
        if name in self.ledger or name in self.swaps:
            return
        self.look_at_users()
        try:
            victims = self.swaps.admit(name, self.need, self.now)
        except LmxError:
            self.swaps.call(name, self.need, self.now)
        else:
            self.go(victims)
            self.come(name)

    def look_at_users(self) -> None:
        for name, model in self.models.items():
            self.ledger.use(name, model.users, self.now if model.users else model.left_at)

    def come(self, name: str) -> None:
        self.models[name].up_at = self.now + self.need.load_s
        self.loads.append((self.now, name))

    def go(self, victims: Iterable[str]) -> None:
        for name in victims:
            model = self.models[name]
            self.cut += len(model.running)
            self.ledger.gone(name)
            self.swaps.gone(name)
            model.up_at, model.shut = math.inf, False
            if model.waiting:
                self.swaps.call(name, self.need, self.now)

    def step(self) -> None:
        self.now += STEP_S
        for name, model in self.models.items():
            if model.up_at <= self.now and self.ledger.is_loading(name):
                self.ledger.loaded(name, self.need.total, self.now)
                self.swaps.came_up(name, self.now)
            self.serve(model)
        self.look_at_users()
        found = self.swaps.look(self.now)
        for name, model in self.models.items():
            model.shut = name in found.closed
        self.go(found.evict)
        if found.admitted is not None:
            assert found.refused is None
            self.come(found.admitted)

    def serve(self, model: Model) -> None:
        before = len(model.running)
        model.running = [end for end in model.running if end > self.now]
        if before:
            model.left_at = self.now
        while model.up_at <= self.now and not model.shut and model.waiting:
            if len(model.running) >= model.slots:
                break
            came, lasts_s = model.waiting.popleft()
            self.waits.append(self.now - came)
            model.running.append(self.now + lasts_s)

    def play(self, requests: Mapping[str, list[tuple[float, float]]], until_s: float) -> None:
        """Let requests (when, how long) come; those that are left are worked off after that."""
        trace = sorted((at, name, lasts) for name, them in requests.items() for at, lasts in them)
        pending = deque(trace)
        while pending or any(model.users or model.waiting for model in self.models.values()):
            while pending and pending[0][0] <= self.now:
                _, name, lasts_s = pending.popleft()
                self.ask(name, lasts_s)
            self.step()
            assert self.now < until_s, "somebody is never served"


def steady(first: float, gap_s: float, number: int, lasts_s: float) -> list[tuple[float, float]]:
    return [(first + gap_s * each, lasts_s) for each in range(number)]


def swaps_per(machine: Machine, seconds: float) -> float:
    return len(machine.loads) / (machine.now / seconds)


def test_a_stream_that_never_pauses_starves_nobody() -> None:
    machine = Machine(slots=4)
    machine.play({"a": steady(0, 1.0, 300, 1.0), "b": steady(3, 1.0, 300, 1.0)}, 2000)
    assert len(machine.waits) == 600
    assert machine.cut == 0
    # A turn of the other between two loads, what runs at its ends, and what piled up before.
    assert max(machine.waits) <= TURN_S + 2 * LOAD_S + 2 * 1.0 + (TURN_S + 2 * LOAD_S) / 4
    # A load for every turn, not for every request.
    assert swaps_per(machine, TURN_S + LOAD_S) <= 1.1


def test_a_model_that_is_idle_for_a_moment_between_two_requests_is_not_swapped_each_time() -> None:
    machine = Machine()
    # Each is idle for half a second after every request, and asked again.
    machine.play({"a": steady(0, 0.75, 300, 0.25), "b": steady(0.25, 0.75, 300, 0.25)}, 2000)
    assert len(machine.waits) == 600
    assert swaps_per(machine, TURN_S + LOAD_S) <= 1.3


def test_of_several_that_are_busy_the_one_goes_that_is_there_longest() -> None:
    ledger = MemoryLedger(20)
    swaps = Swaps(ledger, TURN_S)
    swaps.call("c", MemoryNeed(10), 0.0)
    for name, at in (("late", 9.0), ("early", 5.0)):
        ledger.admit(name, MemoryNeed(10), 0.0)
        ledger.loaded(name, 10, at)
        swaps.came_up(name, at)
        ledger.use(name, 1, at)
    assert swaps.look(24.9).closed == set()
    assert swaps.look(25.0).closed == {"early"}
    ledger.use("early", 0, 30.0)  # all that ran there has ended
    found = swaps.look(30.0)
    assert (found.admitted, found.evict) == ("c", ("early",))


def test_the_queue_is_finished_first_and_no_longer_than_the_bound() -> None:
    machine = Machine()
    machine.play({"a": [(0, 1.0)] * 4, "b": [(6, 1.0)]}, 60)
    (_, first), (at, second) = machine.loads
    assert (first, second) == ("a", "b")
    assert LOAD_S + 4 <= at <= LOAD_S + 4 + 3 * STEP_S
    machine = Machine()
    machine.play({"a": [(0, 1.0)] * 40, "b": [(6, 1.0)]}, 200)
    at, second = machine.loads[1]
    assert second == "b"
    assert 6 + TURN_S <= at <= 6 + TURN_S + 1.0 + 2 * STEP_S


def test_what_runs_is_never_cut_however_long_it_runs() -> None:
    machine = Machine()
    machine.play({"a": [(0, 100.0), (1, 1.0)], "b": [(6, 1.0)]}, 400)
    assert machine.cut == 0
    assert [name for _, name in machine.loads] == ["a", "b", "a"]
    assert machine.loads[1][0] >= LOAD_S + 100.0


def test_a_model_that_nobody_uses_goes_at_once() -> None:
    machine = Machine()
    machine.play({"a": [(0, 1.0)], "b": [(30, 1.0)]}, 60)
    assert machine.loads[1] == (30.0, "b")


def test_a_lull_ends_a_turn() -> None:
    machine = Machine()
    machine.play({"a": steady(0, 1.0, 40, 1.0), "b": [(6, 1.0)]}, 200)
    # b has one request; a is waited for, and comes back as soon as b has rested.
    back = machine.loads[2]
    assert back[1] == "a"
    came_up = machine.loads[1][0] + LOAD_S
    assert came_up + 1.0 + LULL_S <= back[0] <= came_up + 1.0 + LULL_S + 3 * STEP_S


def test_three_models_take_turns_in_the_order_of_their_calls() -> None:
    machine = Machine()
    streams = {name: steady(0.25 * place, 1.5, 100, 1.0) for place, name in enumerate("abc")}
    machine.play(streams, 3000)
    order = [name for _, name in machine.loads]
    assert order[:6] == ["a", "b", "c"] * 2
    assert len(machine.waits) == 300


def test_a_pinned_model_stays() -> None:
    machine = Machine()
    machine.ask("a", 1.0)
    machine.ledger.pinned = {"a"}
    machine.step()
    with pytest.raises(LmxError, match="pinned models hold"):
        machine.ledger.admit("b", NEED, 0.0)
    machine.swaps.call("b", NEED, 0.0)
    found = machine.swaps.look(0.0)
    assert (found.admitted, found.evict, found.closed) == ("b", (), frozenset())
    assert found.refused is not None
    assert found.refused.code == "model_too_large"
    assert not machine.swaps


def test_a_small_model_passes_where_it_takes_nothing_from_the_first_in_line() -> None:
    ledger = MemoryLedger(20)
    swaps = Swaps(ledger, TURN_S)
    for name, size in (("a", 10), ("b", 4)):
        ledger.admit(name, MemoryNeed(size), 0.0)
        ledger.loaded(name, size, 0.0)
        ledger.use(name, 1, 0.0)
    swaps.call("c", MemoryNeed(14), 1.0)  # has room when a is gone, and 2 are left
    with pytest.raises(LmxError, match="needs 3 bytes"):
        swaps.admit("more", MemoryNeed(3), 1.0)
    assert swaps.admit("less", MemoryNeed(2), 1.0) == ()
    assert swaps.look(1.0 + TURN_S).closed == {"a"}


def crowded(*sizes: tuple[str, int, bool]) -> tuple[MemoryLedger, Swaps]:
    """A machine of 20 with models on it: name, size, and whether it is busy."""
    ledger = MemoryLedger(20)
    for name, size, used in sizes:
        ledger.admit(name, MemoryNeed(size), 0.0)
        ledger.loaded(name, size, 0.0)
        ledger.use(name, int(used), 0.0)
    return ledger, Swaps(ledger, TURN_S)


def test_a_model_passes_over_idle_ones_that_the_first_in_line_does_not_need() -> None:
    _, swaps = crowded(("a", 9, True), ("idle", 2, False), ("b", 7, True))
    swaps.call("first", MemoryNeed(10), 1.0)  # 2 are free: idle does not free enough, a does
    swaps.call("next", MemoryNeed(12), 1.0)
    swaps.call("small", MemoryNeed(3), 1.0)
    found = swaps.look(2.0)
    assert (found.admitted, found.evict, found.closed) == ("small", ("idle",), frozenset())
    assert list(swaps) == ["first", "next"]
    assert swaps.look(1.0 + TURN_S).closed == {"a"}


def test_nobody_passes_over_an_idle_model_that_the_first_in_line_needs() -> None:
    ledger, swaps = crowded(("a", 9, True), ("idle", 2, False), ("b", 9, True))
    swaps.call("first", MemoryNeed(11), 1.0)
    swaps.call("small", MemoryNeed(2), 1.0)
    assert swaps.look(2.0).admitted is None
    with pytest.raises(LmxError, match="needs 1 bytes"):
        swaps.admit("least", MemoryNeed(1), 2.0)
    ledger.use("a", 0, 3.0)
    found = swaps.look(3.0)
    assert found.admitted == "first"
    assert set(found.evict) == {"a", "idle"}


def test_what_never_fits_is_refused_wherever_it_stands_in_line() -> None:
    _, swaps = crowded(("a", 20, True))
    swaps.call("b", MemoryNeed(20), 1.0)
    with pytest.raises(LmxError, match="the budget is 20 bytes"):
        swaps.admit("huge", MemoryNeed(21), 1.0)
    swaps.call("huge", MemoryNeed(21), 1.0)
    found = swaps.look(1.0)
    assert found.admitted == "huge"
    assert found.refused is not None
    assert list(swaps) == ["b"]


def test_for_whom_nobody_waits_nobody_is_shut_and_idle_room_is_taken() -> None:
    ledger, swaps = crowded(("a", 20, True))
    swaps.call("b", MemoryNeed(20), 0.0)
    swaps.call("c", MemoryNeed(20), 1.0)
    swaps.unattended = frozenset({"b"})
    assert swaps.look(TURN_S).closed == set()
    assert swaps.look(TURN_S + 1.0).closed == {"a"}
    assert swaps.wait_s("c", 1.0) == TURN_S  # b is not counted
    swaps.unattended = frozenset({"b", "c"})
    assert swaps.look(TURN_S + 1.0).closed == set()
    ledger.use("a", 0, TURN_S)
    assert swaps.look(TURN_S + 1.0).admitted == "b"


def test_a_model_to_which_somebody_comes_back_keeps_its_room_for_its_turn() -> None:
    ledger, swaps = crowded(("a", 20, False))
    swaps.call("b", MemoryNeed(20), 0.0)
    assert swaps.look(0.0).admitted == "b"
    ledger.gone("a")
    ledger.loaded("b", 20, 5.0)
    swaps.came_up("b", 5.0)
    swaps.promised = frozenset({"b"})
    swaps.call("a", MemoryNeed(20), 6.0)
    assert swaps.look(5.0 + TURN_S - 0.1).admitted is None
    assert swaps.look(5.0 + TURN_S).admitted == "a"


def test_the_longer_rows_run_beyond_a_turn_the_longer_is_told() -> None:
    _, swaps = crowded(("a", 20, True))
    swaps.call("b", MemoryNeed(20), 0.0)
    assert swaps.wait_s("b", TURN_S) == 0.0
    assert swaps.wait_s("b", TURN_S + 40.0) == 10.0
    assert swaps.wait_s("b", TURN_S + 400.0) == 100.0


def test_how_long_it_should_take_is_told_and_gets_less() -> None:
    machine = Machine()
    machine.play({"a": [(0, 1.0)]}, 60)
    machine.ask("a", 100.0)
    machine.step()
    for name in "bc":
        machine.ask(name, 1.0)
    assert machine.swaps.wait_s("b", machine.now) == TURN_S
    assert machine.swaps.wait_s("c", machine.now) == TURN_S + TURN_S + LOAD_S
    for _ in range(40):
        machine.step()
    assert machine.swaps.wait_s("b", machine.now) == TURN_S - 10.0
    assert machine.swaps.wait_s("a", machine.now) == 0.0
    assert machine.swaps.withdraw("b")
    assert list(machine.swaps) == ["c"]


@settings(max_examples=60, deadline=None)
@given(
    turn_s=st.sampled_from([0.5, 5.0, 20.0]),
    slots=st.integers(1, 3),
    load_s=st.sampled_from([1.0, 5.0]),
    streams=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0.25, 4), st.integers(1, 40), st.floats(0.25, 3)),
        min_size=2,
        max_size=3,
    ),
)
def test_everybody_is_served_nobody_is_cut_and_loads_are_paid_for(
    turn_s: float,
    slots: int,
    load_s: float,
    streams: list[tuple[float, float, int, float]],
) -> None:
    machine = Machine(turn_s, slots, MemoryNeed(6, load_s=load_s))
    requests = {f"m{place}": steady(*stream) for place, stream in enumerate(streams)}
    work_s = sum(stream[2] * (stream[3] + 2 * STEP_S) for stream in streams)
    # In every cycle each model that is waited for serves at least one request.
    number = sum(stream[2] for stream in streams)
    most_s = 200 + work_s + number * (load_s + LULL_S + 1)
    machine.play(requests, most_s)
    assert len(machine.waits) == number
    assert machine.cut == 0
    assert len(machine.loads) <= number + len(streams)
    for (at, _), (later, _) in itertools.pairwise(machine.loads[1:]):
        assert later - at >= load_s + min(turn_s, LULL_S) - 2 * STEP_S
