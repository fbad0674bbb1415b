"""The fair line by example: what callers are told, and what operators see."""

import contextlib
from collections.abc import Callable

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Lane
from opta_lmx.scheduling.forecast import meeting
from opta_lmx.scheduling.rules import Position, Work
from tests.support.line_bench import Bench, bot


def test_retry_after_is_the_work_ahead_at_the_measured_pace() -> None:
    bench = Bench(max_waiting=10)
    bench.ask(bot("one"), count=8)
    bench.serve(8, seconds=2.0)
    bench.ask(bot("one"), count=11)
    bench.grants()
    # One runs, nine go before the last: each holds the slot for two seconds.
    assert bench.line.retry_after(bot("one")) == pytest.approx(20.0, rel=0.1)


def test_who_had_less_waits_less() -> None:
    bench = Bench(max_waiting=20)
    bench.ask(bot("small"), count=4)
    bench.ask(bot("hog"), count=4)
    bench.serve(8, seconds=2.0)
    bench.ask(bot("hog"), count=18)
    bench.ask(bot("small"), count=3)
    bench.grants()
    small, hog = bench.line.retry_after(bot("small")), bench.line.retry_after(bot("hog"))
    assert small == pytest.approx(8.0, rel=0.3)
    # Forty seconds of work are queued; the small one is likely to ask for more meanwhile.
    assert 38 <= hog <= 55


def test_a_capped_client_waits_for_its_own_slots() -> None:
    bench = Bench(slots=4, max_waiting=20, client_max_running=1)
    bench.ask(bot("one"), count=8)
    bench.serve(8, seconds=2.0)
    bench.ask(bot("one"), count=9)
    bench.grants()
    assert bench.line.retry_after(bot("one")) == pytest.approx(16.0, rel=0.15)


def test_waits_are_told_a_little_apart() -> None:
    bench = Bench(max_waiting=10)
    bench.ask(bot("one"), count=8)
    bench.serve(8, seconds=2.0)
    bench.ask(bot("one"), count=11)
    told = {bench.line.retry_after(bot("one")) for _ in range(20)}
    assert len(told) > 10
    assert max(told) < 1.12 * min(told)


def test_abandoned_requests_count_for_what_they_used() -> None:
    bench = Bench()
    bench.ask(bot("one"), Work(1000), count=6)
    bench.serve(4, tokens=11, seconds=2.0)
    pace = bench.line.pace
    before = (pace.prompt_s.value, pace.token_s.value, pace.answer.value)
    assert before == pytest.approx((0.001, 0.1, 11.0))
    quitter = bench.line.grant()
    assert quitter is not None
    share = bench.line._tickets[quitter].share
    paid = share.used
    bench.clock.time += 0.25
    bench.line.release(quitter, finished=False)
    assert share.used == pytest.approx(paid - 750.0)
    assert (pace.prompt_s.value, pace.token_s.value, pace.answer.value) == pytest.approx(before)


def test_answers_are_judged_by_whose_they_are() -> None:
    bench = Bench(max_waiting=50)
    for _ in range(5):
        bench.ask(bot("brief", key="a"), Work(0))
        bench.serve(1, tokens=2, seconds=0.2)
        bench.ask(bot("wordy", key="b"), Work(0))
        bench.serve(1, tokens=200, seconds=20.0)
    bench.ask(bot("brief", key="a"), Work(0), count=10)
    assert bench.line.position(bench.ask(bot("brief", key="a"))[0]).estimate_s < 5.0


def test_a_ticket_knows_its_position() -> None:
    bench = Bench()
    bench.ask(bot("one"), count=4)
    bench.serve(4, seconds=2.0)
    tickets = bench.ask(bot("one"), count=4)
    bench.grants()
    assert bench.line.position(tickets[0]) == Position(0, 0.0)
    ahead = [bench.line.position(ticket) for ticket in tickets[1:]]
    assert [one.ahead for one in ahead] == [0, 1, 2]
    assert [one.estimate_s for one in ahead] == pytest.approx([2.0, 4.0, 6.0], rel=0.1)
    assert bench.line.position(999) == Position(0, 0.0)


def test_requests_that_are_being_prepared_count_as_ahead() -> None:
    bench = Bench()
    early = bench.line.enter_many(3, bot("one"))
    late = bench.line.enter(bot("two"))
    assert bench.line.position(late).ahead >= len(early)
    assert bench.line.position(late).estimate_s >= 6.0


def test_depths_say_who_has_what() -> None:
    bench = Bench()
    bench.ask(bot("one"), count=2)
    bench.grants()
    bench.clock.time += 3.0
    bench.line.enter(bot("two", key="other", lane=Lane.AGENT))
    first, second = bench.line.depths()
    assert (first.lane, first.tenant, first.key, first.client) == (0, "default", "key", "one")
    assert (first.waiting, first.running, first.oldest_s) == (1, 1, 3.0)
    assert (second.lane, second.key, second.waiting, second.oldest_s) == (1, "other", 1, 0.0)


def test_what_is_in_cache_can_be_said_anew() -> None:
    bench = Bench(quantum=1000.0)
    bench.ask(bot("one"), Work(100))
    (ticket,) = bench.ask(bot("two"), Work(100))
    bench.line.mark_ready(ticket, Work(100, cached=90))
    assert bench.grants() == ["two"]
    assert bench.line._tickets[ticket].share.used == pytest.approx(19.0)


def test_the_longer_an_answer_lasts_the_longer_it_is_expected_to_go_on() -> None:
    bench = Bench(max_waiting=10)
    (endless,) = bench.ask(bot("one"))
    bench.grants()
    (behind,) = bench.ask(bot("one"))
    told: list[float] = []
    for _ in range(5):
        for _ in range(60):
            bench.clock.time += 1.0
            bench.line.charge(endless, 50)
        told.append(bench.line.position(behind).estimate_s)
    # Five minutes of an answer that nobody has bounded: one more is no surprise.
    assert told == sorted(told)
    assert told[-1] == pytest.approx(75.0, rel=0.1)


def test_a_prompt_that_takes_longer_than_usual_is_expected_to_go_on() -> None:
    bench = Bench(max_waiting=10)
    bench.ask(bot("one"), Work(100))
    bench.grants()
    (behind,) = bench.ask(bot("one"))
    soon = bench.line.position(behind).estimate_s
    bench.clock.time += 60.0
    assert bench.line.position(behind).estimate_s > soon + 10


def test_lanes_with_little_to_do_do_not_make_a_place_come_sooner() -> None:
    bench = Bench(max_waiting=8)
    for lane in Lane:
        bench.ask(bot("one", lane=lane))
    bench.serve(3, seconds=2.0)
    bench.ask(bot("one"), count=5)
    for lane in (Lane.AGENT, Lane.BACKGROUND):
        bench.ask(bot("one", lane=lane))
    bench.grants()
    bench.ask(bot("one"), count=2)
    told = [refused_s(bench, "one", "key") for _ in range(9)]
    # One slot: the n-th has a place when n have had it, for two seconds each but the first.
    assert all(told_s >= 0.85 * (2 * number + 1) for number, told_s in enumerate(told))


def test_who_is_away_leaves_no_place_before_it_is_back() -> None:
    bench = Bench(slots=4, max_waiting=4)
    bench.ask(bot("one"), count=4)
    bench.serve(4, seconds=0.05)
    bench.ask(bot("one"), count=4)
    bench.grants()
    bench.ask(bot("one"), count=4)
    told = [refused_s(bench, "one", "key") for _ in range(20)]
    # Those who wait are served at once; then the places of those who were told first are needed.
    assert all(told_s <= 1.05 for told_s in told[:4])
    assert all(told_s >= 1.9 for told_s in told[16:])


@pytest.mark.parametrize(
    ("number", "seconds"), [(1, 0.5), (2, 1.0), (4, 2.0), (6, 4.0), (12, 10.0), (20, 10.0)]
)
def test_turns_of_several_are_met_together_and_nobody_s_after_its_last(
    number: float, seconds: float
) -> None:
    # Two a second while both have any: two of one by 2 s, ten of the other by 10 s.
    assert meeting([(2.0, 2.0), (10.0, 10.0)], number) == pytest.approx(seconds)


# --- what a refusal takes ---------------------------------------------------------------


def refused_s(bench: Bench, client: str, key: str, places: int = 1) -> float:
    """What a caller is told that finds no place (s)."""
    with pytest.raises(LmxError) as refused:
        bench.line.enter_many(places, bot(client, key=key))
    return refused.value.retry_after or 0.0


def test_a_refusal_looks_at_each_counter_once_however_full_the_ledger_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(slots=4, max_waiting=8)
    for number in range(8 * 12 * 20):
        with contextlib.suppress(LmxError):
            bench.ask(bot(f"bot-{number % 12}", key=f"key-{number // 12 % 8}"))
        bench.grants()
    assert len(bench.line._promises) == 1024
    forecast = bench.line._forecast
    estimates, looks = list[object](), list[object]()

    def counted(calls: list[object], call: Callable[..., object]) -> Callable[..., object]:
        def noted(*arguments: object) -> object:
            calls.append(arguments[0])
            return call(*arguments)

        return noted

    monkeypatch.setattr(forecast, "_turn", counted(estimates, forecast._turn))
    monkeypatch.setattr(forecast, "_queued", counted(looks, forecast._queued))
    for number in range(24):
        estimates.clear()
        looks.clear()
        refused_s(bench, f"bot-{number % 12}", f"key-{number % 8}")
        assert 1 <= len(estimates) <= 4
        assert len(looks) == len(set(looks))
        # Lanes, tenants of a lane, keys of a tenant, clients of a key.
        assert len(looks) <= len(Lane) + 1 + 8 + 12


# --- whose time is up -------------------------------------------------------------------


def waiting_bench() -> Bench:
    """One slot and four shared places, all of them taken, at two seconds a request."""
    bench = Bench(max_waiting=4, key_places=5)
    bench.ask(bot("hog"), count=4)
    bench.serve(4, seconds=2.0)
    bench.ask(bot("hog"), count=5)
    bench.grants()
    return bench


def test_who_waited_too_long_has_a_place_when_told_to_be_back() -> None:
    bench = waiting_bench()
    (ticket,) = bench.ask(bot("slow"))
    told = bench.line.give_up(ticket)
    bench.line.leave(ticket)
    assert 1 <= told <= 60
    bench.clock.time += told - 0.5
    refused_s(bench, "stranger", "key")
    bench.clock.time += 0.5
    assert bench.line.enter(bot("slow"))


def test_all_answers_to_a_call_are_told_the_same_and_have_places_together() -> None:
    bench = waiting_bench()
    tickets = bench.line.enter_many(2, bot("slow", key="other"))
    for ticket in tickets:
        bench.line.mark_ready(ticket, Work(100))
    told = {bench.line.give_up(ticket) for ticket in tickets}
    assert len(told) == 1
    assert [one.places for one in bench.line._promises._all] == [2]


def test_whose_time_is_up_does_not_take_over_what_another_call_was_promised() -> None:
    bench = waiting_bench()
    bench.ask(bot("slow"))
    bench.clock.time += refused_s(bench, "slow", "key")
    (ticket,) = [one for one, name in bench.names.items() if name == "slow"]
    bench.line.give_up(ticket)
    assert [one.times for one in bench.line._promises._all] == [1, 1]


def test_who_is_not_in_line_any_more_is_told_something_all_the_same() -> None:
    assert 1 <= Bench().line.give_up(5) <= 60
