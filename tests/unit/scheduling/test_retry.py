"""Retry-After and restart pauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.scheduling.retry import RestartPolicy, retry_after


@given(st.floats(0, 1e9), st.integers(1, 10**6))
def test_what_is_told_is_within_its_bounds_and_near_the_estimate(
    seconds: float, number: int
) -> None:
    told = retry_after(seconds, number)
    assert 1 <= told <= 60
    if 2 <= seconds <= 50:
        assert told == pytest.approx(seconds, rel=0.06)


def test_those_who_are_told_do_not_come_back_together() -> None:
    told = [retry_after(20.0, number) for number in range(1, 21)]
    assert len(set(told)) == 20
    assert max(told) - min(told) > 1.5


def policy() -> RestartPolicy:
    return RestartPolicy(backoff_s=1.0, backoff_max_s=5.0, max_restarts=4, window_s=100.0)


def test_restarts_back_off_and_then_stop() -> None:
    restarts = policy()
    assert [restarts.after_crash(float(now)) for now in range(5)] == [1.0, 2.0, 4.0, 5.0, None]


def test_old_crashes_are_forgiven() -> None:
    restarts = policy()
    pauses = [restarts.after_crash(200.0 * number) for number in range(6)]
    assert pauses == [1.0] * 6
