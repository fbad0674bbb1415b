"""Retry-After and restart pauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.scheduling.retry import RestartPolicy, ServiceRate


def test_retry_after_is_work_ahead_over_measured_rate() -> None:
    rate = ServiceRate()
    rate.record(4.0)
    assert rate.retry_after(ahead=6, slots=2) == 12.0
    for _ in range(60):
        rate.record(1.0)
    assert rate.mean_s == pytest.approx(1.0, abs=0.01)


@given(st.lists(st.floats(0, 1e6)), st.integers(0, 10**6), st.integers(0, 100))
def test_retry_after_stays_within_its_bounds(times: list[float], ahead: int, slots: int) -> None:
    rate = ServiceRate()
    for seconds in times:
        rate.record(seconds)
    assert 1 <= rate.retry_after(ahead, slots) <= 60


def policy() -> RestartPolicy:
    return RestartPolicy(backoff_s=1.0, backoff_max_s=5.0, max_restarts=4, window_s=100.0)


def test_restarts_back_off_and_then_stop() -> None:
    restarts = policy()
    assert [restarts.after_crash(float(now)) for now in range(5)] == [1.0, 2.0, 4.0, 5.0, None]


def test_old_crashes_are_forgiven() -> None:
    restarts = policy()
    pauses = [restarts.after_crash(200.0 * number) for number in range(6)]
    assert pauses == [1.0] * 6
