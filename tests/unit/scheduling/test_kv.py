"""Cache memory: what is reserved never exceeds what there is, and grows ahead of the answers."""

import random
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from opta_lmx.core.kv_cost import KvCost
from opta_lmx.scheduling.kv import (
    FIRST_ANSWER,
    GRAIN,
    AnswerLengths,
    KvDemand,
    Reservations,
)

FLAT = KvCost(((10, 0),))
SLIDING = KvCost(((6, 0), (30, 128)), fixed=1000)
ME, YOU = ("t", "me"), ("t", "you")


def test_what_a_row_takes() -> None:
    assert FLAT.at(100) == 1000
    assert SLIDING.at(100) == 1000 + 600 + 3000
    assert SLIDING.at(1000) == 1000 + 6000 + 30 * 128
    assert KvCost(((6, 0), (30, 128)), slack=50).at(100) == 6 * 150 + 30 * 128


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 5000)), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.integers(0, 255),
    st.integers(0, 10**9),
)
def test_the_longest_row_in_a_size(
    layers: list[tuple[int, int]], fixed: int, slack: int, size: int
) -> None:
    cost = KvCost((*layers, (1, 0)), fixed, slack)
    tokens = cost.tokens_in(size)
    assert tokens == -1 or cost.at(tokens) <= size
    assert cost.at(tokens + 1) > size


def test_one_that_does_not_fit_waits_until_another_has_ended() -> None:
    room = Reservations(FLAT, 1000)
    room.add(1, KvDemand(40, 20, 20))
    assert room.fits(KvDemand(20, 20, 20))
    assert not room.fits(KvDemand(21, 20, 20))
    assert room.fits(KvDemand(21, 20, 20), without={1})
    room.release(1)
    room.release(1)
    assert room.reserved == 0
    assert room.fits(KvDemand(21, 20, 20))


def test_the_peak_is_left_free_and_prefixes_have_what_rows_leave() -> None:
    room = Reservations(KvCost(((10, 0),), peak=100), 1000)
    assert (room.left, room.longest()) == (900, 90)
    room.add(1, KvDemand(60, 10, 10))
    assert room.left == 200
    assert room.fits(KvDemand(10, 10, 10))
    assert not room.fits(KvDemand(11, 10, 10))


def test_a_row_alone_always_runs_and_grows() -> None:
    room = Reservations(FLAT, 1000)
    assert room.fits(KvDemand(5000, 1, 1000))
    room.add(1, KvDemand(5000, 1, 1000))
    assert room.left == 0
    assert room.grow(1, 900) >= 900 + GRAIN
    assert not room.fits(KvDemand(1, 1, 1))


def test_an_expected_answer_does_not_keep_out_what_could_run_alone() -> None:
    room = Reservations(FLAT, 1000)
    assert room.reachable(KvDemand(90, 500, 2000)) == KvDemand(90, 10, 2000)
    assert room.reachable(KvDemand(90, 500, 2000), 950) == KvDemand(90, 5, 2000)


def test_a_key_has_no_more_than_its_own_cap() -> None:
    room = Reservations(FLAT, 10_000)
    room.add(1, KvDemand(40, 10, 100), ME)
    room.add(2, KvDemand(40, 10, 100), YOU)
    assert room.fits_key(KvDemand(40, 10, 10), ME, 1000)
    assert not room.fits_key(KvDemand(41, 10, 10), ME, 1000)
    assert room.fits_key(KvDemand(41, 10, 10), ME, 1000, without={1})
    assert not room.fits_key(KvDemand(41, 10, 10), ME, 1000, without={2})
    room.add(3, KvDemand(40, 10, 100), ME)
    assert room.grow(1, 10, cap=1000) == 0
    assert room.key_is_full(1, 10, 1000)
    assert not room.key_is_full(1, 10, 2000)
    assert room.grow(2, 10, cap=700) == 10 + GRAIN
    room.release(3)
    assert room.grow(1, 10, cap=1000) == 10 + GRAIN
    assert room.longest(1000) == 100


def test_a_reservation_grows_ahead_of_the_answer() -> None:
    room = Reservations(FLAT, 100_000)
    room.add(1, KvDemand(100, 100, 1000))
    assert room.grow(1, 100 - GRAIN) == 100
    assert room.reserved == 2000
    assert room.grow(1, 100 - GRAIN + 1) == 125
    assert room.reserved == 2250
    for generated in range(1000):
        assert room.grow(1, generated) >= min(1000, generated + GRAIN)
        assert room.reserved >= 10 * (100 + min(1000, generated + GRAIN))
    assert room.grow(1, 5000) == 1000
    assert room.reserved == 11_000


def test_growth_takes_the_little_there_is_before_it_gives_up() -> None:
    room = Reservations(FLAT, 1_000 * 10)
    room.add(1, KvDemand(100, 700, 5000))
    room.add(2, KvDemand(50, 30, 30))
    assert room.grow(1, 690) == 690 + GRAIN
    assert room.reserved == 10 * (100 + 690 + GRAIN) + 800
    assert room.grow(1, 900) == 0
    assert room.reserved == 10 * (100 + 690 + GRAIN) + 800


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
        for _ in range(8):
            lengths.record(("t", f"k{number}"), 1)
    assert len(lengths._lengths) == len(lengths._usual) == 1000


def test_what_was_generated_before_a_pause_counts_as_prompt() -> None:
    lengths = AnswerLengths()
    for _ in range(8):
        lengths.record(ME, 100)
    assert lengths.demand(ME, 10, 1000, 40) == KvDemand(50, 60, 960)
    assert lengths.demand(ME, 10, 1000, 400) == KvDemand(410, 200, 600)
    assert lengths.demand(ME, 10, 1000, 990) == KvDemand(1000, 10, 10)


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
    CAPS: ClassVar[dict[tuple[str, str], int | None]] = {ME: 9_000, YOU: None}

    def __init__(self) -> None:
        super().__init__()
        cost = KvCost(SLIDING.layers, SLIDING.fixed, peak=self.PEAK)
        self.room = Reservations(cost, self.BUDGET)
        self.rows: dict[int, tuple[int, int, int, tuple[str, str]]] = {}

    def sizes(self, owner: tuple[str, str] | None = None) -> list[int]:
        rows = self.rows.values()
        return [SLIDING.at(p + a) for p, a, _, who in rows if owner in (None, who)]

    @rule(
        request=st.integers(0, 20),
        prompt=st.integers(1, 500),
        most=st.integers(1, 300),
        owner=st.sampled_from([ME, YOU]),
    )
    def add(self, request: int, prompt: int, most: int, owner: tuple[str, str]) -> None:
        if request in self.rows:
            return
        cap = self.CAPS[owner]
        demand = self.room.reachable(KvDemand(prompt, min(most, 40), most), cap)
        size, sizes = SLIDING.at(prompt + demand.expected), self.sizes()
        fits = not sizes or sum(sizes) + size + self.PEAK <= self.BUDGET
        assert self.room.fits(demand) is fits
        own = self.sizes(owner)
        fits_key = cap is None or not own or sum(own) + size <= cap
        assert cap is None or self.room.fits_key(demand, owner, cap) is fits_key
        if fits and fits_key:
            answer = self.room.add(request, demand, owner)
            self.rows[request] = (prompt, answer, most, owner)

    @rule(data=st.data(), generated=st.integers(0, 300))
    def grow(self, data: st.DataObject, generated: int) -> None:
        if not self.rows:
            return
        request = data.draw(st.sampled_from(sorted(self.rows)))
        prompt, answer, most, owner = self.rows[request]
        before = self.room.reserved
        after = self.room.grow(request, generated, self.CAPS[owner])
        if after:
            assert after >= max(answer, min(most, generated + GRAIN))
            self.rows[request] = (prompt, after, most, owner)
        else:
            assert self.room.reserved == before
            assert len(self.rows) > 1

    @rule(request=st.integers(0, 20))
    def release(self, request: int) -> None:
        self.room.release(request)
        self.rows.pop(request, None)

    @invariant()
    def never_more_than_there_is(self) -> None:
        sizes = self.sizes()
        assert self.room.reserved == sum(sizes)
        assert len(sizes) <= 1 or sum(sizes) + self.PEAK <= self.BUDGET
        assert self.room.left == max(0, self.BUDGET - self.PEAK - sum(sizes))
        for owner, cap in self.CAPS.items():
            own = self.sizes(owner)
            assert cap is None or len(own) <= 1 or sum(own) <= cap
            assert self.room.of_key(owner) == sum(own)


ReservationMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestReservations = ReservationMachine.TestCase
