import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import Spread, median, percentile

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("values", "q", "wanted"),
    [
        ([5], 95, 5),
        ([1, 2, 3, 4], 50, 2.5),
        ([4, 1, 3, 2], 0, 1),
        ([4, 1, 3, 2], 100, 4),
        ([0, 10], 95, 9.5),
        (list(range(101)), 99, 99),
    ],
)
def test_percentile(values: list[float], q: float, wanted: float) -> None:
    assert percentile(values, q) == pytest.approx(wanted)


@given(values=numbers, low=st.floats(0, 100), high=st.floats(0, 100))
def test_percentiles_rise_within_the_values(values: list[float], low: float, high: float) -> None:
    first, second = sorted((low, high))
    a, b = percentile(values, first), percentile(values, second)
    slack = 1e-6
    assert min(values) - slack <= a <= b + slack
    assert b <= max(values) + slack


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))
    assert math.isnan(median(iter(())))
    assert math.isnan(Spread.of_seconds([]).p95)


@pytest.mark.parametrize("q", [-1, 100.1])
def test_a_percentile_lies_between_0_and_100(q: float) -> None:
    with pytest.raises(ValueError, match="between"):
        percentile([1.0], q)


def test_a_spread_is_in_milliseconds() -> None:
    spread = Spread.of_seconds([0.001 * value for value in range(1, 102)])
    assert (spread.count, spread.p50, spread.worst) == (101, pytest.approx(51), pytest.approx(101))
    assert (spread.p95, spread.p99) == (pytest.approx(96), pytest.approx(100))
