"""Simulated fleets: the bounds hold for every seed, and first come, first served breaks them."""

import statistics

import pytest

from opta_lmx.core.principal import Caller, Lane, Principal
from opta_lmx.scheduling.rules import LineRules, Work
from tests.support.fleet_run import Findings, survey, survey_many
from tests.support.fleet_scenarios import Asked, Scenario, random_scenario
from tests.support.fleet_sim import FirstComeLine, Policy, fair, play
from tests.support.fleet_soak import soak_scenario
from tests.support.fleet_watch import Watch

FEW = 150
ALL = 10_000
FEW_CRAMPED = 30
ALL_CRAMPED = 2_000


def all_holds(found: Findings) -> None:
    print(found)
    assert found.faults == {}, (
        f"play one alone: python -m tests.support.fleet_run SEED SEED+1\n{found}"
    )
    assert max(found.gaps) <= 1.0
    assert found.lost_s <= 0.01 * found.busy_s
    assert found.retry_error < 0.3


def test_the_bounds_hold() -> None:
    all_holds(survey(range(FEW)))


def test_first_come_first_served_breaks_them() -> None:
    found = survey(range(FEW), "fcfs")
    assert len(found.unfair) > FEW / 4
    assert max(found.gaps) > 4.0
    assert found.retry_error > 0.6


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_bounds_hold_for_ten_thousand_seeds() -> None:
    all_holds(survey_many(0, ALL))


def nobody_starves(found: Findings) -> None:
    print(found)
    assert found.faults == {}, (
        f"play one alone: python -m tests.support.fleet_run SEED SEED+1 cramped\n{found}"
    )
    assert found.pauses > found.seeds
    assert found.retry_error < 0.6  # answers here are of very different lengths


def test_nobody_starves_where_memory_is_short() -> None:
    nobody_starves(survey(range(FEW_CRAMPED), "cramped"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nobody_starves_for_two_thousand_seeds() -> None:
    nobody_starves(survey_many(0, ALL_CRAMPED, "cramped"))


def test_a_seed_plays_the_same_each_time() -> None:
    def story(watch: Watch) -> object:
        return (
            watch.waits,
            watch.places.errors,
            watch.pauses,
            [gap.widest for gap in watch.client_gaps.values()],
        )

    for seed in range(5):
        assert random_scenario(seed) == random_scenario(seed)
        assert story(play(random_scenario(seed))) == story(play(random_scenario(seed)))


def test_a_full_house_is_told_the_truth() -> None:
    for seed in range(3):
        watch = play(soak_scenario(seed, queue=6))
        places = watch.places
        assert places.refusals > 300
        assert statistics.median(places.errors) < 0.3
        for key in ("fleet-key", "jobs-key"):
            of_key = [
                abs(told - truth) / truth
                for caller, _, told, truth in places.judged
                if caller.principal.key == key
            ]
            assert len(of_key) > 20
            assert statistics.median(of_key) < 0.4
        assert places.given_up == 0
        assert places.needless == []
        assert watch.lost_s + watch.away_s <= 0.01 * watch.busy_s


# --- one hog and its victims ------------------------------------------------------------

SLOTS = 4
DECODE = 25.0
VICTIM = Caller(Principal(key="victim"), "bot", Lane.INTERACTIVE)


def hog_scenario(preemptible: bool, *, rotating: bool, lane: Lane = Lane.INTERACTIVE) -> Scenario:
    """24 requests at once, each for 96 tokens, and ten victims that come one after the other."""
    who = Principal(key="hog", lane=lane)
    hog = [
        Asked(
            0.01 * n, Caller(who, f"bot-{n}" if rotating else "bot", lane), Work(50), 96, 0.01, None
        )
        for n in range(24)
    ]
    victims = [Asked(2.0 + n, VICTIM, Work(20), 4, 0.01, None) for n in range(10)]
    rules = LineRules(max_waiting=40, preemptible=preemptible, several_keys=True)
    asked = tuple(sorted((*hog, *victims), key=lambda one: one.at))
    return Scenario(0, rules, SLOTS, prefill=500.0, decode=DECODE, step=1, asked=asked)


def victims_wait(scenario: Scenario, policy: Policy = fair) -> list[float]:
    """Seconds that each victim waited for its slot."""
    watch = play(scenario, policy)
    waits = [wait for (_, key, _), wait, _ in watch.waits if key == "victim"]
    assert len(waits) == 10
    return waits


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("rotating", [False, True], ids=["one-client", "rotating"])
@pytest.mark.parametrize("preemptible", [True, False], ids=["pausing", "reserving"])
def test_a_victim_waits_no_longer_than_a_step_or_a_prompt(
    preemptible: bool, rotating: bool, lane: Lane
) -> None:
    scenario = hog_scenario(preemptible, rotating=rotating, lane=lane)
    waits = victims_wait(scenario)
    assert statistics.median(waits) <= (1 / DECODE if preemptible else 0.0)
    assert max(waits) <= 50 / scenario.prefill + 2 / DECODE


def test_first_come_first_served_has_them_wait_for_the_hog() -> None:
    waits = victims_wait(hog_scenario(False, rotating=False), FirstComeLine)
    assert statistics.median(waits) > 5.0
