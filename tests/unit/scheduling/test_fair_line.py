"""The fair line by example: shares, lanes, caps, places."""

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Lane
from opta_lmx.scheduling.rules import LaneRule, LineRules, Work
from tests.support.line_bench import Bench, bot

# --- shares -----------------------------------------------------------------------------


def test_a_flood_does_not_delay_the_others() -> None:
    bench = Bench()
    first, *_ = bench.ask(bot("hog"), count=12)
    bench.grants()
    bench.ask(bot("victim"), count=2)
    bench.line.charge(first, 10)
    bench.line.release(first)
    assert bench.serve(4) == ["victim", "hog", "victim", "hog"]


def test_one_who_asks_for_less_has_more_turns() -> None:
    bench = Bench()
    bench.ask(bot("long"), Work(980), count=10)
    bench.ask(bot("short"), Work(230), count=20)
    assert bench.serve(20).count("short") == 16


def test_keys_share_by_weight_whatever_clients_they_name() -> None:
    bench = Bench()
    for number in range(30):
        bench.ask(bot(f"hog-{number}", key="hogs"))
    bench.ask(bot("small", key="small"), count=20)
    bench.ask(bot("big", key="big", weight=2.0), count=20)
    served = bench.serve(24)
    assert served.count("small") == 6
    assert served.count("big") == 12


def test_clients_of_a_key_share_what_is_the_keys() -> None:
    bench = Bench()
    bench.ask(bot("one", key="a"), count=20)
    bench.ask(bot("other", key="a"), count=20)
    bench.ask(bot("alone", key="b"), count=20)
    served = bench.serve(20)
    assert [served.count(name) for name in ("one", "other", "alone")] == [5, 5, 10]


@pytest.mark.parametrize("quantum", [0.0, 600.0])
def test_nothing_is_saved_up_by_asking_for_nothing(quantum: float) -> None:
    bench = Bench(quantum=quantum)
    bench.ask(bot("idle"))
    bench.ask(bot("busy"), count=40)
    bench.serve(21)
    bench.ask(bot("idle"), count=20)
    assert bench.serve(8).count("idle") == 4


def test_a_warm_prefix_goes_first_within_the_quantum_only() -> None:
    bench = Bench(quantum=300.0)
    bench.ask(bot("cold"), Work(100), count=10)
    bench.ask(bot("warm"), Work(100, cached=90), count=20)
    served = bench.serve(20)
    # A warm one costs 39, a cold one 120: the warm client runs ahead by 300, then they are equal.
    assert served[:7] == ["warm"] * 7
    assert served.count("cold") >= 3


def test_cached_tokens_cost_less() -> None:
    assert Work(100, cached=90).cost(LineRules().prices) == pytest.approx(19.0)
    assert Work(100, cached=500).cost(LineRules().prices) == pytest.approx(10.0)


# --- lanes ------------------------------------------------------------------------------


def test_lanes_share_by_weight() -> None:
    bench = Bench()
    for lane, name in ((Lane.BACKGROUND, "job"), (Lane.AGENT, "step"), (Lane.INTERACTIVE, "chat")):
        bench.ask(bot(name, lane=lane), count=60)
    served = bench.serve(52)
    assert [served.count(name) for name in ("chat", "step", "job")] == [32, 16, 4]


def test_background_never_fills_every_slot() -> None:
    bench = Bench(slots=4)
    bench.ask(bot("job", lane=Lane.BACKGROUND), count=9)
    assert bench.grants() == ["job"] * 3
    bench.ask(bot("chat"))
    assert bench.grants() == ["chat"]


def test_background_runs_where_there_is_one_slot() -> None:
    bench = Bench(slots=1)
    bench.ask(bot("job", lane=Lane.BACKGROUND))
    assert bench.grants() == ["job"]


def test_a_lane_is_served_when_it_has_waited_long_enough() -> None:
    heavy = (LaneRule(1e6), LaneRule(4.0), LaneRule(1.0))
    bench = Bench(lanes=heavy, ageing_s=10.0)
    bench.ask(bot("job", lane=Lane.BACKGROUND), count=3)
    bench.serve(1)
    bench.ask(bot("chat"), count=60)
    served = bench.serve(33)
    turns = [turn for turn, name in enumerate(served) if name == "job"]
    assert turns[0] == 1
    assert turns[1] in range(10, 14)


# --- caps -------------------------------------------------------------------------------


def test_where_nothing_can_be_paused_a_slot_is_kept_for_others() -> None:
    bench = Bench(slots=4, reserve=1)
    bench.ask(bot("hog"), count=9)
    assert bench.grants() == ["hog"] * 3
    bench.ask(bot("victim"))
    assert bench.grants() == ["victim"]


def test_of_several_keys_none_takes_the_slot_kept_for_others() -> None:
    bench = Bench(slots=4, reserve=1, several_keys=True)
    for number in range(9):
        bench.ask(bot(f"hog-{number}", key="hogs"))
    assert len(bench.grants()) == 3
    bench.ask(bot("victim", key="other"))
    assert bench.grants() == ["victim"]


def test_an_engine_that_can_pause_keeps_no_slot_empty() -> None:
    bench = Bench(slots=4, reserve=1, preemptible=True)
    bench.ask(bot("hog"), count=9)
    assert len(bench.grants()) == 4


def test_an_engine_whose_pauses_take_long_keeps_one_all_the_same() -> None:
    bench = Bench(slots=4, reserve=1, preemptible=True, always_reserve=True)
    bench.ask(bot("hog"), count=9)
    assert bench.grants() == ["hog"] * 3
    bench.ask(bot("victim"))
    assert bench.grants() == ["victim"]


def test_clients_and_keys_have_caps() -> None:
    bench = Bench(slots=6, client_max_running=2)
    bench.ask(bot("one", most=3), count=5)
    bench.ask(bot("other", most=3), count=5)
    assert sorted(bench.grants()) == ["one", "one", "other"]


def test_who_was_held_back_by_a_cap_is_not_owed_all_of_it() -> None:
    bench = Bench(slots=3, client_max_running=1, quantum=100.0)
    bench.ask(bot("slow"), count=5)
    bench.ask(bot("quick"), count=60)
    bench.ask(bot("third"), count=60)
    slow = bench.line.grant()
    assert slow is not None
    bench.line.set_limit(2)
    bench.serve(40)
    bench.line.release(slow)
    bench.line.set_limit(1)
    assert bench.serve(9).count("slow") <= 4


def test_the_limit_lets_fewer_run_and_cuts_nobody() -> None:
    bench = Bench(slots=4)
    first = bench.ask(bot("one"), count=8)
    bench.grants()
    bench.line.set_limit(2)
    assert (bench.line.slots, bench.line.running) == (2, 4)
    for ticket in first[:2]:
        bench.line.release(ticket)
    assert bench.grants() == []
    bench.line.release(first[2])
    assert bench.grants() == ["one"]
    bench.line.set_limit(0)
    assert bench.line.slots == 1
    bench.line.set_limit(None)
    assert bench.line.slots == 4


# --- places -----------------------------------------------------------------------------


def full_bench() -> Bench:
    """A line of four shared places, which a flood has taken."""
    bench = Bench(max_waiting=4)
    bench.ask(bot("hog", key="hogs"), count=5)
    bench.grants()
    with pytest.raises(LmxError) as refused:
        bench.line.enter(bot("hog", key="hogs"))
    assert refused.value.kind is ErrorKind.RATE_LIMITED
    assert refused.value.code == "queue_full"
    return bench


def test_a_key_with_nothing_waiting_has_a_place() -> None:
    bench = full_bench()
    for number in range(9):
        bench.line.enter(bot(key=f"late-{number}"))
    with pytest.raises(LmxError):
        bench.line.enter(bot(key="late-8"))


def test_each_key_has_its_part_of_the_places() -> None:
    bench = full_bench()
    bench.line.enter_many(2, bot(key="late"))
    with pytest.raises(LmxError):
        bench.line.enter(bot(key="late"))
    bench.line.enter(bot(key="later"))
    with pytest.raises(LmxError):
        bench.line.enter(bot(key="later"))


def test_a_client_with_nothing_waiting_has_a_place_of_its_key() -> None:
    bench = full_bench()
    for number in range(4):
        bench.line.enter(bot(f"bot-{number}", key="hogs"))
    with pytest.raises(LmxError):
        bench.line.enter(bot("bot-9", key="hogs"))


def test_a_key_has_a_place_for_one_call_however_many_answers_it_wants() -> None:
    bench = full_bench()
    with pytest.raises(LmxError):
        bench.line.enter_many(6, bot(key="late"))
    assert len(bench.line.enter_many(5, bot(key="late"))) == 5


def test_a_paused_row_keeps_no_newcomer_out() -> None:
    bench = Bench(max_waiting=1, preemptible=True)
    (ticket,) = bench.ask(bot("one"))
    bench.grants()
    bench.line.yielded(ticket)
    assert bench.line.waiting == 1
    bench.line.enter(bot("one"))


def test_clients_that_come_and_go_are_forgotten() -> None:
    bench = Bench(idle_clients=10)
    for number in range(500):
        bench.ask(bot(f"bot-{number}"))
        bench.serve(1)
    (tenant,) = bench.line._order.lanes[0].share.children.values()
    assert len(tenant.children["key"].children) == 10
    assert bench.line.depths() == ()
