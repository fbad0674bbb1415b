"""Which refusals get rows: a few of each address and minute, the rest as a sum."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.tenancy.audit_refusals import Refusals
from tests.support.clocks import HandClock


def test_one_address_gets_a_few_rows_a_minute() -> None:
    clock = HandClock()
    refusals = Refusals(clock)
    assert [refusals.admit("10.0.0.1") for _ in range(8)] == [True] * 5 + [False] * 3
    assert refusals.admit("10.0.0.2")
    assert refusals.summary() is None, "the minute is not over"
    clock.now += 60
    assert refusals.summary() == "3 more refusals, from 1 addresses (10.0.0.1: 3)"
    assert refusals.summary(now=True) is None, "it is told once"
    assert refusals.admit("10.0.0.1")


def test_an_ipv6_network_of_one_machine_is_one_address() -> None:
    refusals = Refusals(HandClock())
    assert sum(refusals.admit(f"2001:db8:1:2::{n:x}") for n in range(1, 50)) == 5
    assert refusals.admit("2001:db8:1:3::1")
    told = refusals.summary(now=True)
    assert told == "44 more refusals, from 1 addresses (2001:db8:1:2::/64: 44)"


def test_a_day_has_a_bound_of_its_own() -> None:
    clock = HandClock()
    refusals = Refusals(clock, per_day=30)
    rows = 0
    for _ in range(100):
        refusals.summary()
        rows += sum(refusals.admit(f"10.0.0.{n}") for n in range(20))
        clock.now += 60
    assert rows == 30
    clock.now += 86_400
    assert refusals.summary() is not None
    assert refusals.admit("10.0.0.1")


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 20)), max_size=400), st.integers(1, 50)
)
def test_nothing_is_lost_and_no_table_grows(asked: list[tuple[int, float]], most: int) -> None:
    clock = HandClock()
    refusals = Refusals(clock, max_addresses=most)
    written = told = 0

    def add(summary: str | None) -> int:
        return int(summary.split()[0]) if summary else 0

    for number, pause in asked:
        told += add(refusals.summary())
        written += refusals.admit(f"10.{number >> 8}.{number & 255}.1")
        assert len(refusals._written.keys() | refusals._unwritten.keys()) <= most + 1
        clock.now += pause
    told += add(refusals.summary(now=True))
    assert written + told == len(asked)
