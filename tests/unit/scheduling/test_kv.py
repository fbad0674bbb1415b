"""Cache memory: what is reserved never exceeds what there is, with padding and kept prefixes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.scheduling.kv import (
    FIRST_ANSWER,
    GRAIN,
    AnswerLengths,
    KvCost,
    KvDemand,
    Reservations,
)

FLAT = KvCost(((10, 0),))
SLIDING = KvCost(((6, 0), (30, 128)), fixed=1000)


def test_what_a_row_takes() -> None:
    assert FLAT.at(100) == 1000
    assert SLIDING.at(100) == 1000 + 600 + 3000
    assert SLIDING.at(1000) == 1000 + 6000 + 30 * 128


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 5000)), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.integers(0, 10**9),
)
def test_the_longest_row_in_a_size(layers: list[tuple[int, int]], fixed: int, size: int) -> None:
    cost = KvCost((*layers, (1, 0)), fixed)
    tokens = cost.tokens_in(size)
    assert tokens == -1 or cost.at(tokens) <= size
    assert cost.at(tokens + 1) > size


def test_short_rows_do_not_pay_for_a_long_one() -> None:
    apart, together = (Reservations(FLAT, 10**9, bounds=bounds) for bounds in ((2048,), ()))
    for room in (apart, together):
        for request in range(7):
            assert room.add(request, KvDemand(10, 6, 6))
        assert room.add(7, KvDemand(3000, 6, 6))
    assert apart.reserved == 7 * 16 * 10 + 3006 * 10
    assert together.reserved == 8 * 3006 * 10


def test_what_is_kept_and_the_peak_count() -> None:
    room = Reservations(FLAT, 1000, peak=100)
    assert room.fits(KvDemand(80, 10, 10))
    room.keep(300)
    assert room.free == 600
    assert room.shortage(KvDemand(60, 10, 10)) == 100
    assert not room.add(1, KvDemand(60, 10, 10))
    room.keep(200)
    assert room.add(1, KvDemand(60, 10, 10))
    assert room.free == 0


def test_one_that_does_not_fit_waits_until_another_has_ended() -> None:
    room = Reservations(FLAT, 1000)
    assert room.add(1, KvDemand(40, 20, 20))
    assert not room.add(2, KvDemand(30, 20, 20))
    room.release(1)
    room.release(1)
    assert room.add(2, KvDemand(30, 20, 20))


def test_padding_that_a_long_newcomer_brings_to_others_counts() -> None:
    room = Reservations(FLAT, 1000)
    assert room.add(1, KvDemand(10, 10, 10))
    assert room.shortage(KvDemand(40, 20, 20)) == 2 * 600 - 1000
    assert room.add(2, KvDemand(30, 20, 20))
    assert room.reserved == 1000


def test_what_can_never_fit_is_refused_with_numbers() -> None:
    room = Reservations(FLAT, 1000, peak=100)
    assert room.check(80, "messages") == 10
    assert room.check(89, "messages") == 1
    room.keep(800)
    assert room.check(89, "messages") == 1
    with pytest.raises(LmxError) as refused:
        room.check(90, "prompt")
    error = refused.value
    assert (error.kind, error.param) == (ErrorKind.CONTEXT_LENGTH_EXCEEDED, "prompt")
    assert error.message == (
        "The prompt has 90 tokens, whose caches take 910 bytes; this model has 900 bytes for "
        "caches: room for 90 tokens, answer included."
    )


def test_an_expected_answer_does_not_keep_out_what_could_run_alone() -> None:
    room = Reservations(FLAT, 1000)
    assert room.add(1, KvDemand(90, 500, 2000))
    assert room.free == 0
    assert not room.grow(1, 1)


def test_a_reservation_grows_ahead_of_the_answer() -> None:
    room = Reservations(FLAT, 100_000)
    room.add(1, KvDemand(100, 100, 1000))
    assert room.grow(1, 100 - GRAIN)
    assert room.reserved == 2000
    assert room.grow(1, 100 - GRAIN + 1)
    assert room.reserved == 2250
    for generated in range(1000):
        assert room.grow(1, generated)
        assert room.reserved >= 10 * (100 + min(1000, generated + GRAIN))
    assert room.reserved == 11_000
    assert room.grow(1, 5000)
    assert room.grow(99, 5000)


def test_growth_takes_the_little_there_is_before_it_gives_up() -> None:
    room = Reservations(FLAT, 1_000 * 10)
    room.add(1, KvDemand(100, 800, 5000))
    assert room.grow(1, 790)
    assert room.reserved == 10 * (100 + 790 + GRAIN)
    assert not room.grow(1, 900)
    assert room.reserved == 10 * (100 + 790 + GRAIN)


def test_what_a_key_usually_answers_is_what_is_reserved() -> None:
    lengths, owner = AnswerLengths(), ("t", "k")
    assert lengths.demand(owner, 10, 4000) == KvDemand(10, FIRST_ANSWER, 4000)
    for number in range(1, 8):
        lengths.record(owner, number)
    assert lengths.demand(owner, 10, 4000).expected == FIRST_ANSWER
    for number in range(1, 101):
        lengths.record(owner, number)
    assert lengths.demand(owner, 10, 4000).expected == 97
    assert lengths.demand(owner, 10, 50) == KvDemand(10, 50, 50)
    assert lengths.demand(("t", "other"), 10, 50).expected == 50
    for number in range(2000):
        lengths.record(("t", f"k{number}"), 1)
    assert len(lengths._lengths) == 1000


def test_the_estimate_covers_95_of_100() -> None:
    for seed in range(20):
        draw, lengths, owner, covered = random.Random(seed), AnswerLengths(), ("t", "k"), 0
        for _ in range(64):
            lengths.record(owner, round(draw.lognormvariate(5, 1)))
        for _ in range(1000):
            answer = round(draw.lognormvariate(5, 1))
            covered += answer <= lengths.demand(owner, 1, 10**6).expected
            lengths.record(owner, answer)
        assert 0.92 <= covered / 1000 <= 0.97


class ReservationMachine(RuleBasedStateMachine):
    """Random traffic against the plain formula."""

    BUDGET = 20_000
    PEAK = 500
    BOUNDS = (50, 200)

    def __init__(self) -> None:
        super().__init__()
        self.room = Reservations(SLIDING, self.BUDGET, self.PEAK, self.BOUNDS)
        self.rows: dict[int, tuple[int, int, int, int]] = {}
        self.kept = 0

    def formula(self, rows: dict[int, tuple[int, int, int, int]]) -> int:
        total = 0
        for bucket in range(3):
            lengths = [p + a for p, a, _, where in rows.values() if where == bucket]
            if lengths:
                total += len(lengths) * SLIDING.at(max(lengths))
        return total

    @rule(request=st.integers(0, 20), prompt=st.integers(1, 500), most=st.integers(1, 300))
    def add(self, request: int, prompt: int, most: int) -> None:
        if request in self.rows:
            return
        demand = KvDemand(prompt, min(most, 40), most)
        room = max(1, self.room.capacity - prompt)
        length = prompt + min(demand.expected, room)
        bucket = sum(length > bound for bound in self.BOUNDS)
        rows = {**self.rows, request: (prompt, length - prompt, most, bucket)}
        needed = self.formula(rows) + self.kept + self.PEAK
        assert self.room.shortage(demand) == max(0, needed - self.BUDGET)
        assert self.room.add(request, demand) is (needed <= self.BUDGET)
        if needed <= self.BUDGET:
            self.rows = rows

    @rule(data=st.data(), generated=st.integers(0, 300))
    def grow(self, data: st.DataObject, generated: int) -> None:
        if not self.rows:
            return
        request = data.draw(st.sampled_from(sorted(self.rows)))
        prompt, answer, most, bucket = self.rows[request]
        before = self.room.reserved
        if self.room.grow(request, generated):
            after = self.room._rows[request].answer
            assert after >= min(most, generated + GRAIN)
            assert after >= answer
            self.rows[request] = (prompt, after, most, bucket)
        else:
            assert self.room.reserved == before

    @rule(request=st.integers(0, 20))
    def release(self, request: int) -> None:
        self.room.release(request)
        self.rows.pop(request, None)

    @rule(share=st.floats(0, 1))
    def keep(self, share: float) -> None:
        self.kept = int(share * (self.BUDGET - self.PEAK - self.formula(self.rows)))
        self.room.keep(self.kept)

    @rule()
    def worker_dies(self) -> None:
        self.room.clear()
        self.rows.clear()
        self.kept = 0

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert self.room.reserved == self.formula(self.rows)
        assert self.room.reserved + self.kept + self.PEAK <= self.BUDGET
        assert self.room.free >= 0


ReservationMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestReservations = ReservationMachine.TestCase
