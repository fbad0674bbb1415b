"""Estimates of loading, and who may wait for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.scheduling.loading import (
    FIRST_BYTES_PER_S,
    FIRST_CONVERTED_BYTES_PER_S,
    MAX_KNOWN,
    STARTUP_S,
    ColdStart,
    LoadTimes,
    LoadWork,
)
from tests.support.clocks import HandClock


def test_an_unknown_model_is_judged_by_its_size() -> None:
    times = LoadTimes()
    work = LoadWork("m", int(10 * FIRST_BYTES_PER_S), int(3 * FIRST_CONVERTED_BYTES_PER_S))
    assert times.load_s(work) == pytest.approx(STARTUP_S + 10)
    assert times.conversion_s(work) == pytest.approx(3)
    assert times.load_s(LoadWork("sim")) == STARTUP_S


def test_a_known_model_takes_what_it_took_last() -> None:
    times = LoadTimes()
    work = LoadWork("m", 1_000_000_000)
    times.record_load(work, 30.0)
    times.record_load(work, 42.0)
    assert times.load_s(work) == 42.0


def test_rates_follow_what_is_measured() -> None:
    times = LoadTimes()
    for number in range(30):
        times.record_load(LoadWork(f"m{number}", 4_000_000_000), STARTUP_S + 4)
        times.record_conversion(LoadWork(f"m{number}", 0, 500_000_000), 50.0)
    assert times.load_s(LoadWork("new", 8_000_000_000)) == pytest.approx(STARTUP_S + 8, rel=0.01)
    assert times.conversion_s(LoadWork("new", 0, 100_000_000)) == pytest.approx(10, rel=0.01)


def test_a_tiny_load_says_next_to_nothing_of_the_rate() -> None:
    times = LoadTimes()
    times.record_load(LoadWork("tiny", 1_000_000), STARTUP_S + 0.01)
    assert times.bytes_per_s == pytest.approx(FIRST_BYTES_PER_S, rel=0.001)
    assert times.load_s(LoadWork("tiny", 1_000_000)) == STARTUP_S + 0.01


def test_a_fast_machine_is_soon_believed() -> None:
    times = LoadTimes()
    for _ in range(3):
        times.record_load(LoadWork("m", 8_000_000_000), 2.4)
    assert times.load_s(LoadWork("new", 40_000_000_000)) < 20


def test_the_oldest_are_forgotten() -> None:
    times = LoadTimes()
    for number in range(MAX_KNOWN + 5):
        times.record_load(LoadWork(f"m{number}"), 1.0)
    assert len(times.loads) == MAX_KNOWN
    assert "m4" not in times.loads


def refusal(cold: ColdStart, wait_s: float) -> LmxError | None:
    try:
        cold.admit("m", wait_s)
    except LmxError as error:
        return error
    return None


def test_a_request_waits_while_the_rest_fits_and_is_told_when_to_come_back_otherwise() -> None:
    clock = HandClock(100.0)
    cold = ColdStart(clock)
    cold.expect(50.0)
    assert refusal(cold, 50.0) is None
    error = refusal(cold, 30.0)
    assert error is not None
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "model_loading")
    assert error.retry_after == 50
    clock.now += 25
    assert refusal(cold, 30.0) is None
    error = refusal(cold, 10.0)
    assert error is not None
    assert error.retry_after == 25


def test_an_overrun_is_not_always_just_about_to_end() -> None:
    clock = HandClock(100.0)
    cold = ColdStart(clock)
    cold.expect(10.0)
    clock.now += 80
    assert cold.remaining_s() == 20
    cold.expect(5.0)
    assert cold.remaining_s() == 5


@given(expected=st.floats(0, 1e6), elapsed=st.floats(0, 1e6), wait=st.floats(0, 1e5))
def test_retry_after_stays_within_its_bounds(expected: float, elapsed: float, wait: float) -> None:
    clock = HandClock(100.0)
    cold = ColdStart(clock)
    cold.expect(expected)
    clock.now += elapsed
    error = refusal(cold, wait)
    assert (error is not None) == (cold.remaining_s() > wait)
    if error is not None:
        assert error.retry_after is not None
        assert 1 <= error.retry_after <= 60
        assert error.retry_after == int(error.retry_after)
