"""The fair line by example: whose row is paused, for whom, and what becomes of it."""

from opta_lmx.core.principal import Lane
from opta_lmx.scheduling.rules import LaneRule, Pausing, Work
from tests.support.line_bench import HASTY, Bench, bot


def pausing_bench(slots: int = 4, **changed: object) -> Bench:
    return Bench(slots, preemptible=True, lanes=HASTY, **changed)


def test_the_newest_row_of_who_holds_most_makes_room() -> None:
    bench = pausing_bench()
    bench.ask(bot("small"))
    rows = bench.ask(bot("hog"), count=9)
    assert bench.grants() == ["small", "hog", "hog", "hog"]
    bench.ask(bot("victim"))
    assert bench.line.preempt() == rows[2]
    assert bench.line.preempt() is None
    assert bench.grants() == []
    bench.line.yielded(rows[2])
    assert bench.grants() == ["victim"]
    assert bench.line.preempt() is None


def test_of_two_who_hold_too_much_the_worse_makes_room() -> None:
    bench = pausing_bench(slots=6, quantum=1024.0)
    rows = bench.ask(bot("hog"), count=4)
    bench.grants()
    bench.ask(bot("second"), count=2)
    bench.grants()
    bench.ask(bot("victim"))
    assert bench.line.preempt() == rows[3]


def test_a_client_has_no_row_of_its_own_paused() -> None:
    bench = pausing_bench(slots=2)
    bench.ask(bot("one", lane=Lane.BACKGROUND))
    bench.ask(bot("one"), count=2)
    bench.grants()
    assert bench.line.preempt() is None


def test_a_kept_promise_is_no_promise_any_more() -> None:
    bench = pausing_bench(slots=6, quantum=1024.0)
    rows = bench.ask(bot("hog"), count=6)
    bench.grants()
    bench.ask(bot("victim"), count=4)
    assert [bench.line.preempt(), bench.line.preempt()] == [rows[5], None]
    bench.line.yielded(rows[5])
    assert bench.grants() == ["victim"]
    assert bench.line._order._promises == []
    bench.line.charge(rows[0], 100)  # the hog has had more again
    assert bench.line.preempt() == rows[4]


def test_several_who_wait_have_rows_paused_one_each() -> None:
    bench = pausing_bench()
    rows = bench.ask(bot("hog"), count=9)
    bench.grants()
    bench.ask(bot("one"), count=2)
    bench.ask(bot("two"))
    assert [bench.line.preempt() for _ in range(3)] == [rows[3], rows[2], None]
    bench.line.yielded(rows[2])
    bench.line.yielded(rows[3])
    assert sorted(bench.grants()) == ["one", "two"]


def test_clients_of_a_flooding_key_count_together() -> None:
    bench = pausing_bench()
    for number in range(9):
        bench.ask(bot(f"hog-{number}", key="hogs"))
    bench.grants()
    bench.ask(bot("victim", key="other"))
    assert bench.line.preempt() == 4


def test_background_makes_room_for_anybody_interactive() -> None:
    bench = pausing_bench(slots=2)
    (job,) = bench.ask(bot("job", lane=Lane.BACKGROUND))
    bench.ask(bot("chat"), count=3)
    bench.grants()
    assert bench.line.preempt() == job


def test_nobody_is_paused_for_an_equal_or_for_its_own_client() -> None:
    bench = pausing_bench(slots=2)
    bench.ask(bot("one"))
    bench.ask(bot("two"), count=4)
    bench.grants()
    bench.ask(bot("third"))
    assert bench.line.preempt() is None


def test_equals_take_turns_when_a_row_has_had_its_slice() -> None:
    bench = pausing_bench(slots=1, pausing=Pausing(slice_tokens=50))
    (row,) = bench.ask(bot("one"))
    bench.grants()
    bench.line.charge(row, 49)
    bench.ask(bot("two"))
    assert bench.line.preempt() is None
    bench.line.charge(row, 1)
    assert bench.line.preempt() == row


def test_nobody_is_paused_before_patience_is_at_an_end() -> None:
    lanes = (LaneRule(8.0, patience_s=3.0), LaneRule(4.0), LaneRule(1.0))
    bench = Bench(slots=2, preemptible=True, lanes=lanes)
    bench.ask(bot("hog"), count=4)
    bench.grants()
    bench.ask(bot("victim"))
    # A slot is expected to come free in one second: requests take two, and there are two slots.
    assert bench.line.preempt() is None
    bench.clock.time += 2.5
    assert bench.line.preempt() == 2


def test_a_row_is_paused_twice_at_most_and_not_before_it_has_gone_on() -> None:
    pausing = Pausing(progress_tokens=4, calm_s=10.0)
    bench = pausing_bench(slots=2, quantum=1024.0, pausing=pausing)
    rows = bench.ask(bot("hog"), count=2)
    bench.grants()

    def pause() -> int | None:
        (visit,) = bench.ask(bot(f"visitor-{bench.clock.time}"))
        row = bench.line.preempt()
        if row is None:
            bench.line.leave(visit)
            return None
        bench.line.yielded(row)
        assert bench.line.grant() == visit
        bench.line.release(visit)
        assert bench.grants() == ["hog"]
        bench.clock.time += 1.0
        return row

    assert pause() == rows[1]
    bench.line.charge(rows[1], 3)
    assert pause() == rows[0]
    assert pause() is None
    bench.line.charge(rows[1], 1)
    assert pause() == rows[1]
    bench.line.charge(rows[1], 100)
    assert pause() is None
    bench.clock.time += 10.0
    assert pause() == rows[1]


def test_what_cannot_go_on_later_is_not_paused() -> None:
    bench = pausing_bench(slots=2)
    bench.ask(bot("hog"), Work(10, pausable=False), count=4)
    bench.grants()
    bench.ask(bot("victim"))
    assert bench.line.preempt() is None


def test_a_paused_row_waits_in_its_old_place_and_pays_its_prompt_once() -> None:
    bench = pausing_bench(slots=1)
    first, second = bench.ask(bot("one"), Work(500), count=2)
    bench.grants()
    bench.line.charge(first, 10)
    share = bench.line._tickets[first].share
    assert share.used == 520.0
    bench.line.yielded(first)
    assert bench.line.grant() == first
    assert share.used == 520.0
    bench.line.release(first)
    assert bench.line.grant() == second


def test_a_promise_ends_with_whoever_it_was_for() -> None:
    bench = pausing_bench()
    rows = bench.ask(bot("hog"), count=5)
    bench.grants()
    (victim,) = bench.ask(bot("victim"))
    assert bench.line.preempt() == rows[3]
    bench.line.leave(victim)
    bench.line.yielded(rows[3])
    assert bench.line.grant() == rows[3]
    assert bench.line.preempt() is None


def test_a_row_that_ends_while_it_is_asked_to_yield_makes_room_as_well() -> None:
    bench = pausing_bench()
    rows = bench.ask(bot("hog"), count=5)
    bench.grants()
    bench.ask(bot("victim"))
    assert bench.line.preempt() == rows[3]
    bench.line.release(rows[3])
    assert bench.grants() == ["victim"]
    assert bench.line.preempt() is None


def test_a_lane_that_is_stopped_again_must_have_got_on_or_lose_nothing() -> None:
    bench = pausing_bench(slots=2)
    (row,) = bench.ask(bot("jobs", lane=Lane.BACKGROUND))
    bench.ask(bot("chat"))
    bench.grants()

    def stopped(*, kept: bool) -> bool:
        rows = bench.line.pause(Lane.BACKGROUND, lambda _: kept)
        if rows:
            bench.line.yielded(row)
            bench.grants()
        return rows == [row]

    assert stopped(kept=False)
    assert not stopped(kept=False)
    assert [stopped(kept=True) for _ in range(40)].count(True) == 31
    bench.line.charge(row, 16)
    assert stopped(kept=False)


def test_a_barred_lane_gets_nothing_until_it_is_let_in() -> None:
    bench = pausing_bench(slots=4)
    bench.ask(bot("jobs", lane=Lane.BACKGROUND))
    bench.line.bar(Lane.BACKGROUND, barred=True)
    bench.ask(bot("chat"))
    assert bench.grants() == ["chat"]
    assert bench.line.upcoming() is None
    bench.line.bar(Lane.BACKGROUND, barred=False)
    assert bench.grants() == ["jobs"]
