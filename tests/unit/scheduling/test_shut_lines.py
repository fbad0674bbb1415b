"""A line that is shut lets nobody begin, and everybody who has begun come to an end."""

import pytest

from opta_lmx.core.kv_cost import KvCost
from opta_lmx.core.principal import Lane
from tests.support.line_bench import HASTY, Bench, bot


def pausing_bench(slots: int) -> Bench:
    return Bench(slots, preemptible=True, lanes=HASTY)


def test_nobody_begins_until_it_is_open_again() -> None:
    bench = Bench(2)
    (running,) = bench.ask(bot("one"))
    assert bench.grants() == ["one"]
    bench.ask(bot("two"))
    bench.line.set_shut(True)
    assert bench.grants() == []
    assert bench.line.under_way
    bench.line.release(running)
    assert not bench.line.under_way
    assert (bench.grants(), bench.line.waiting) == ([], 1)
    bench.line.set_shut(False)
    assert bench.grants() == ["two"]


@pytest.mark.parametrize("bounded", [False, True])
def test_who_was_paused_goes_on_and_nobody_is_paused_for_a_newcomer(*, bounded: bool) -> None:
    bench = pausing_bench(2)
    if bounded:
        bench.line.set_room(KvCost(((1, 0),)), 1_000_000)
    rows = bench.ask(bot("hog"), count=2)
    assert bench.grants() == ["hog", "hog"]
    bench.ask(bot("victim"))
    assert bench.line.preempt() == rows[1]
    bench.line.set_shut(True)
    bench.line.yielded(rows[1])
    assert bench.line.under_way
    assert bench.grants() == ["hog"]
    bench.ask(bot("other"))
    assert bench.line.preempt() is None
    for row in rows:
        bench.line.release(row)
    assert not bench.line.under_way
    assert bench.grants() == []
    bench.line.set_shut(False)
    assert sorted(bench.grants()) == ["other", "victim"]


def test_who_may_not_go_on_for_the_sake_of_others_keeps_nothing_under_way() -> None:
    bench = pausing_bench(2)
    (row,) = bench.ask(bot("job", lane=Lane.BACKGROUND))
    bench.grants()
    bench.line.bar(Lane.BACKGROUND, barred=True)
    assert bench.line.pause(Lane.BACKGROUND, lambda _: True) == [row]
    bench.line.set_shut(True)
    assert bench.line.under_way
    bench.line.yielded(row)
    assert not bench.line.under_way
    bench.line.bar(Lane.BACKGROUND, barred=False)
    assert bench.line.under_way
    assert bench.grants() == ["job"]
