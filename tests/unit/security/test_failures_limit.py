"""Wrong keys: counted within a window, by address, in bounded memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.security.failures import AuthFailures
from tests.support.clocks import HandClock

A, B = "203.0.113.1", "203.0.113.2"


def failed(failures: AuthFailures, address: str, times: int) -> None:
    for _ in range(times):
        failures.failed(address)


def test_the_wait_begins_at_the_limit_and_ends_with_the_window() -> None:
    clock = HandClock(1000.0)
    failures = AuthFailures(clock, 3, 60.0)
    failed(failures, A, 2)
    assert failures.retry_after(A) is None
    clock.now += 10
    failures.failed(A)
    assert failures.retry_after(A) == 50.0
    assert failures.retry_after(B) is None
    clock.now += 49.5
    assert failures.retry_after(A) == 0.5
    clock.now += 0.5
    assert failures.retry_after(A) is None
    failures.failed(A)  # two of the first three have run out
    assert failures.retry_after(A) is None
    failures.failed(A)
    assert failures.retry_after(A) == 10.0


def test_who_goes_on_does_not_wait_longer() -> None:
    clock = HandClock()
    failures = AuthFailures(clock, 2, 60.0)
    failed(failures, A, 2)
    clock.now = 30.0
    failed(failures, A, 100)
    assert failures.retry_after(A) == 30.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        (A, f"::ffff:{A}", True),
        (A, B, False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "no address", True),
    ],
)
def test_whom_an_address_counts_for(one: str, other: str, *, same: bool) -> None:
    failures = AuthFailures(HandClock(), 1)
    failures.failed(one)
    assert (failures.retry_after(other) is not None) is same


def test_zero_never_waits() -> None:
    failures = AuthFailures(HandClock(), 0)
    failed(failures, A, 1000)
    assert failures.retry_after(A) is None
    assert len(failures) == 0


def test_many_addresses_neither_grow_the_table_nor_free_anybody() -> None:
    clock = HandClock()
    failures = AuthFailures(clock, 2, 60.0, max_addresses=10)
    failed(failures, A, 2)
    for n in range(10_000):
        failures.failed(f"2001:db8:{n:x}::1")
    assert len(failures) == 10
    assert failures.retry_after(A) == 60.0
    # Newcomers wait together, as the table is full; those within it have their own count.
    assert failures.retry_after("192.0.2.77") == 60.0
    assert failures.retry_after("2001:db8:1::1") is None
    clock.now = 60.0
    assert failures.retry_after("192.0.2.77") is None
    assert failures.retry_after(A) is None
    assert len(failures) == 0


EVENTS = st.lists(st.tuples(st.sampled_from([A, B, "::1"]), st.integers(0, 8)), max_size=60)


@given(EVENTS, st.integers(1, 4))
def test_it_is_as_if_every_failure_were_kept(events: list[tuple[str, int]], limit: int) -> None:
    clock = HandClock()
    failures = AuthFailures(clock, limit, 20.0)
    kept: dict[str, list[float]] = {}
    for address, pause in events:
        clock.now += pause
        recent = [at for at in kept.get(address, []) if at > clock.now - 20.0]
        expected = recent[-limit] + 20.0 - clock.now if len(recent) >= limit else None
        assert failures.retry_after(address) == expected
        failures.failed(address)
        kept[address] = recent if len(recent) >= limit else [*recent, clock.now]
        assert len(failures) <= 3
