"""The limit falls when steps are slow, comes back when they are not, and stays in mere noise."""

import math
import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.scheduling.adaptive import (
    MAX_SHAPES,
    AdaptiveLimit,
    Baseline,
    StepSample,
)

SLOTS = 8
SEEDS = range(60)


class Model:
    """A model under constant demand: rows of random lengths fill whatever limit there is.

    A step costs a read of the weights, some work a row, and a read of every row's cache; noise is
    log-normal with a heavy tail, and bursts of other processes slow runs of steps.
    """

    def __init__(
        self, seed: int, slots: int = SLOTS, *, spread: float = 0.3, bursts: float = 0.0
    ) -> None:
        self.draw = random.Random(seed)
        self.limit = AdaptiveLimit(slots)
        self.rows: list[tuple[int, int]] = []
        self.started = self.lost = 0
        self.factor = 1.0
        self.prefill_every = 0
        self._spread = spread
        self._bursts = bursts
        self._burst = 0
        self._steps = 0

    def step(self) -> int:
        self._steps += 1
        self.rows = [(done + 1, total) for done, total in self.rows if done < total]
        while len(self.rows) < self.limit.limit:
            self.rows.append((0, self.draw.randint(20, 300)))
            self.started += 1
        cached = sum(100 + done for done, _ in self.rows) * 1000
        prefill = bool(self.prefill_every) and self._steps % self.prefill_every == 0
        ms = self._cost(len(self.rows), cached) * (6 if prefill else 1)
        return self.limit.step(StepSample(len(self.rows), ms, cached, clean=not prefill))

    def run(self, steps: int) -> list[int]:
        return [self.step() for _ in range(steps)]

    def _cost(self, rows: int, cached: int) -> float:
        ms = (2.5 + 0.6 * rows + cached / 40e6) * math.exp(self.draw.gauss(0, self._spread))
        if self.draw.random() < 0.05:
            ms *= 3 * self.draw.paretovariate(1.2)
        if self.draw.random() < self._bursts:
            self._burst = self.draw.randint(5, 100)
        if self._burst:
            self._burst -= 1
            ms *= self.draw.uniform(1.5, 3)
        return ms * self.factor


def settled(model: Model, steps: int) -> float:
    """The limit after so many steps: the median of the last 300, as single dips are noise."""
    return median(model.run(steps)[-300:])


def test_it_falls_within_20_slow_steps_and_returns() -> None:
    after_20: list[int] = []
    for seed in SEEDS:
        model = Model(seed)
        before = settled(model, 3000)
        assert before == SLOTS, seed
        running = len(model.rows)
        model.factor = 4.0
        fallen = model.run(20)
        assert fallen[-1] < before, seed
        # What ran keeps running: only rows that ended are missing.
        assert len(model.rows) >= running - 20
        after_20.append(fallen[-1])
        model.run(380)
        model.factor = 1.0
        assert settled(model, 500) >= 0.9 * before, seed
    assert median(after_20) <= SLOTS / 2


def test_prompts_between_the_steps_neither_lower_the_limit_nor_keep_it_from_falling() -> None:
    for seed in SEEDS:
        model = Model(seed)
        model.prefill_every = 3
        assert settled(model, 3000) == SLOTS
        model.factor = 4.0
        assert model.run(20)[-1] < SLOTS, seed
        model.factor = 1.0
        assert settled(model, 700) >= 0.9 * SLOTS, seed


@pytest.mark.parametrize("slots", [1, 2, 3, 16, 64])
def test_other_sizes(slots: int) -> None:
    for seed in range(10):
        model = Model(seed, slots, spread=0.2)
        assert settled(model, 6000) >= 0.9 * slots, seed
        model.factor = 4.0
        slow = model.run(100)
        assert min(slow) >= 1
        assert min(slow[19:]) <= max(1, slots // 2)
        model.factor = 1.0
        assert settled(model, 1500) >= 0.9 * slots, seed


def test_heavy_tails_alone_do_not_move_it() -> None:
    for seed in SEEDS:
        limits = Model(seed, spread=0.4).run(6000)
        assert sum(limits) / len(limits) > 0.95 * SLOTS, seed


def test_load_from_other_processes_does_not_wear_it_down() -> None:
    means: list[float] = []
    for seed in range(12):
        limits = Model(seed, spread=0.4, bursts=0.002).run(30_000)
        thirds = [sum(limits[at : at + 10_000]) / 10_000 for at in (0, 10_000, 20_000)]
        # A tenth of all steps is two to three times slower: it gives way, and comes back.
        assert min(thirds) > 0.75 * SLOTS, seed
        assert thirds[2] > 0.9 * thirds[0], seed
        means.append(thirds[2])
    assert median(means) > 0.85 * SLOTS


def test_what_is_slow_for_good_becomes_usual() -> None:
    for seed in range(6):
        model = Model(seed)
        model.run(3000)
        model.factor = 4.0
        model.run(16_000)
        later = model.run(4000)
        assert sum(later) / len(later) > 0.9 * SLOTS, seed


def test_a_model_loaded_in_a_slow_spell_is_not_measured_by_it() -> None:
    for seed in range(6):
        model = Model(seed)
        model.factor = 4.0
        model.run(500)
        model.factor = 1.0
        model.run(1500)
        model.factor = 4.0
        assert model.run(20)[-1] < SLOTS, seed


def steady(limit: AdaptiveLimit, steps: int, ms: float, *, clean: bool = True) -> int:
    for _ in range(steps):
        limit.step(StepSample(4, ms, clean=clean))
    return limit.limit


def test_steps_that_were_not_alone_say_nothing() -> None:
    limit = AdaptiveLimit(SLOTS)
    steady(limit, 100, 10.0)
    assert steady(limit, 1000, 80.0, clean=False) == SLOTS
    assert limit.slowness == 1.0


def test_a_limit_that_nothing_supports_any_more_comes_back() -> None:
    limit = AdaptiveLimit(SLOTS)
    steady(limit, 100, 10.0)
    assert steady(limit, 40, 40.0) <= 2
    assert steady(limit, 64 * 40, 40.0, clean=False) == SLOTS


@pytest.mark.parametrize(("ms", "falls"), [(15.0, False), (22.0, False), (30.0, True)])
def test_a_slight_slowness_leaves_it_alone(ms: float, falls: bool) -> None:
    limit = AdaptiveLimit(SLOTS)
    steady(limit, 100, 10.0)
    assert (steady(limit, 24, ms) < SLOTS) is falls


def test_it_does_not_drift_in_the_long_run() -> None:
    model = Model(1, spread=0.5)
    means = [sum(model.run(15_000)) / 15_000 for _ in range(6)]
    assert min(means) > 0.97 * SLOTS


def test_resizing_and_restarting() -> None:
    limit = AdaptiveLimit(4)
    limit.resize(10)
    assert limit.limit == 10
    steady(limit, 100, 10.0)
    fallen = steady(limit, 12, 40.0)
    assert fallen < 10
    limit.resize(12)
    assert limit.limit == fallen
    limit.resize(1)
    assert limit.limit == 1
    limit.resize(6)
    limit.restarted()
    assert (limit.limit, limit.slowness) == (6, 1.0)
    # What is usual was kept.
    assert steady(limit, 20, 40.0) < 6


@given(
    st.integers(0, 40),
    st.lists(
        st.tuples(
            st.sampled_from(["step", "resize", "restart"]),
            st.integers(0, 12),
            st.floats(allow_nan=True, allow_infinity=True),
            st.integers(0, 2**40),
            st.booleans(),
        ),
        max_size=200,
    ),
)
def test_whatever_comes_the_limit_is_within_its_bounds(
    slots: int, events: list[tuple[str, int, float, int, bool]]
) -> None:
    limit, most = AdaptiveLimit(slots), max(1, slots)
    for what, number, ms, cached, clean in events:
        if what == "step":
            limit.step(StepSample(number, ms, cached, clean))
        elif what == "resize":
            most = max(1, number)
            limit.resize(number)
        else:
            limit.restarted()
        assert 1 <= limit.limit <= most
        assert 0 <= limit.slowness < math.inf


def test_shapes_are_remembered_in_bounded_space() -> None:
    baseline = Baseline()
    for number in range(4 * MAX_SHAPES):
        baseline.add(StepSample(1 + number % 64, 5.0, 2 ** (number // 64)))
    assert len(baseline._shapes) == MAX_SHAPES
