"""Which refusals get rows: a few of each group and minute, the rest as a sum."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.tenancy.audit_refusals import (
    OWNERS,
    STRANGERS,
    Bounds,
    Refusals,
    in_words,
    network_of,
)
from tests.support.clocks import HandClock


def test_one_group_gets_a_few_rows_a_minute() -> None:
    clock = HandClock()
    refusals = Refusals(clock, STRANGERS)
    assert [refusals.admit("10.0.0.1") for _ in range(8)] == [True] * 5 + [False] * 3
    assert refusals.admit("10.0.0.2")
    assert in_words(refusals.take(), "addresses") == (
        "3 more refusals, from 1 addresses (10.0.0.1: 3)"
    )
    assert not refusals.take(), "it is told once"
    assert not refusals.admit("10.0.0.1"), "the minute is not over"
    clock.now += 60
    assert refusals.admit("10.0.0.1")


def test_what_could_not_be_told_is_counted_again() -> None:
    refusals = Refusals(HandClock(), STRANGERS)
    for _ in range(8):
        refusals.admit("10.0.0.1")
    taken = refusals.take()
    refusals.admit("10.0.0.1")
    refusals.give_back(taken)
    assert (refusals.untold, refusals.take()) == (4, {"10.0.0.1": 4})


def test_an_ipv6_network_of_one_machine_is_one_address() -> None:
    assert {network_of(f"2001:db8:1:2::{n:x}") for n in range(1, 50)} == {"2001:db8:1:2::/64"}
    assert network_of("2001:db8:1:3::1") == "2001:db8:1:3::/64"
    assert (network_of("10.0.0.1"), network_of("")) == ("10.0.0.1", "unknown")


def test_a_day_has_a_bound_of_its_own() -> None:
    clock = HandClock()
    refusals = Refusals(clock, Bounds(per_minute=20, per_day=30))
    rows = 0
    for _ in range(100):
        rows += sum(refusals.admit(f"10.0.0.{n}") for n in range(20))
        clock.now += 60
    assert rows == 30
    clock.now += 86_400
    assert refusals.admit("10.0.0.1")


def test_no_key_takes_the_rows_of_another() -> None:
    clock = HandClock()
    refusals = Refusals(clock, OWNERS)
    rows = 0
    for _ in range(24 * 60):
        rows += sum(refusals.admit("ours/loud") for _ in range(20))
        clock.now += 59.9
    assert rows == OWNERS.each_day == 200
    assert refusals.admit("ours/quiet")


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 20)), max_size=400),
    st.integers(1, 50),
    st.sampled_from([None, 3]),
)
def test_nothing_is_lost_and_no_table_grows(
    asked: list[tuple[int, float]], most: int, each_day: int | None
) -> None:
    clock = HandClock()
    refusals = Refusals(clock, Bounds(per_minute=20, groups=most, each_day=each_day))
    written = told = 0
    for place, (number, pause) in enumerate(asked):
        written += refusals.admit(f"10.{number >> 8}.{number & 255}.1")
        assert len(refusals._minute.keys() | refusals._untold.keys()) <= most + 1
        clock.now += pause
        if place % 7 == 0:
            told += refusals.take().total()
    told += refusals.take().total()
    assert written + told == len(asked)
