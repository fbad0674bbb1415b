import json
import math
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fleet.asking import Asked
from benchmarks.fleet.events import Usage
from benchmarks.fleet.exchange import Try
from benchmarks.fleet.fairness import (
    Gap,
    Service,
    Span,
    common,
    gap,
    jain,
    service_of,
    wanted,
    widest_gap,
)
from benchmarks.fleet.hits import HitRate, Prefixes, hit_rate, look
from benchmarks.fleet.hog import CASES, bound_s, verdict
from benchmarks.fleet.promises import Honesty, honesty, promises
from benchmarks.fleet.script import Ask
from benchmarks.fleet.slots import Waits, read_grants, waits
from benchmarks.fleet.soak import verdicts
from benchmarks.fleet.summary import Class, Summary
from benchmarks.fleet.watch import Growth, Sample, growth
from benchmarks.stats import Spread

QUIET = (Waits(0, 0.0, 0.0, 0.0), Waits(0, 0.0, 0.0, 0.0))
ASK = Ask("completions", "", "", (), (), "", 8, "s")


def usage(prompt: int, cached: int, completion: int) -> Usage:
    return Usage(prompt, completion, {"cached_tokens": cached})


def served(
    sent: float,
    first: float,
    end: float,
    *,
    prompt: int = 10,
    cached: int = 0,
    completion: int = 2,
    refused: tuple[tuple[float, float], ...] = (),
    who: str = "a",
    key: str = "k",
) -> Asked:
    """An answered request; `refused` are tries before it, as (moment, promise)."""
    tries = [Try(at, at, 429, told, error="http_429") for at, told in refused]
    stamps = [first, end] if end > first else [first]
    last = Try(sent, end, 200, stamps=stamps, usages=[usage(prompt, cached, completion)])
    return Asked(who, "bot", key, ASK, [*tries, last])


# --- shares


def test_jain() -> None:
    assert jain([3, 3, 3]) == pytest.approx(1)
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([0, 0]) == 1
    assert math.isnan(jain([]))


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30))
def test_jain_lies_between_one_nth_and_one(values: list[float]) -> None:
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9
    assert jain([7 * value for value in values]) == pytest.approx(jain(values))


def test_service_is_the_computed_prompt_and_the_weighted_answer() -> None:
    one = served(0, 1, 2, prompt=100, cached=40, completion=6)
    found = service_of([one])
    assert found.total == 60 + 2 * 6
    assert found.moments == [1, 1, 2]
    assert service_of([Asked("a", "bot", "k", ASK, [Try(0, 1, 429)])]).total == 0


def test_a_caller_wants_service_while_it_waits_to_try_again() -> None:
    one = served(5, 6, 7, refused=((0, 5),))
    assert wanted([one]) == [Span(0, 7)]
    assert wanted([served(0, 1, 2), served(2.01, 3, 4)]) == [Span(0, 4)]
    assert wanted([served(9, 9, 9.5), served(0, 1, 2)]) == [Span(0, 2), Span(9, 9.5)]


def test_only_common_time_counts() -> None:
    assert common([Span(0, 4), Span(6, 9)], [Span(3, 7)]) == [Span(3, 4), Span(6, 7)]
    rich, poor = Service([1, 2, 3], [10, 10, 10]), Service([2.5], [4])
    assert widest_gap(rich, poor, [Span(0, 4)]) == 26
    assert widest_gap(rich, poor, [Span(0, 1.5)]) == 10
    assert widest_gap(rich, poor, []) == 0


def test_the_widest_gap_may_begin_late() -> None:
    # First one is ahead by 5, then the other overtakes by 12: from peak to bottom it is 12.
    one, other = Service([1.0], [5]), Service([2.0, 3.0], [6, 6])
    assert widest_gap(one, other, [Span(0, 4)]) == 12


def test_the_gap_is_compared_with_two_units() -> None:
    starved = served(0, 90, 91, prompt=50, completion=5, who="b")
    busy = [served(at, at, at + 10, prompt=50, completion=5) for at in range(0, 80, 10)]
    found = gap({"a": busy, "b": [starved]}, slots=2)
    assert found.allowed == 2 * 50
    assert found.widest == 8 * 60
    assert found.part == pytest.approx(4.8)


# --- hits


def test_prefixes_find_the_longest_beginning() -> None:
    held = Prefixes()
    assert held.shared([1, 2]) == 0
    for ids in ([1, 2, 3, 4], [1, 2, 9], [7]):
        held.add(ids)
    assert held.shared([1, 2, 3, 5]) == 3
    assert held.shared([1, 2, 8]) == 2
    assert held.shared([1, 2, 3, 4, 5]) == 4
    assert held.shared([300]) == 0


@given(st.lists(st.lists(st.integers(0, 3), max_size=7), max_size=12), st.lists(st.integers(0, 3)))
def test_prefixes_agree_with_looking_at_every_sequence(
    others: list[list[int]], ids: list[int]
) -> None:
    def shared(other: list[int]) -> int:
        most = min(len(ids), len(other))
        return max(n for n in range(most + 1) if ids[:n] == other[:n])

    held = Prefixes()
    for other in others:
        held.add(other)
    expected = max(map(shared, others), default=0)
    assert held.shared(ids) == expected
    held.add(ids)
    assert held.shared_with_others(ids) == expected


def test_what_was_not_computed_when_it_was_sent_is_not_known() -> None:
    prompt = list(range(10, 30))
    first = served(0, 5, 6, prompt=20)
    during = served(3, 7, 8, prompt=20, cached=19)
    after = served(6, 9, 10, prompt=20, cached=19)
    rows = look([first, during, after], [prompt, prompt, prompt])
    assert [row.known for row in rows] == [0, 0, 19]
    assert [row.possible for row in rows] == [19, 19, 19]
    found = hit_rate(rows)
    assert found.rate == 1
    assert found.cached_tokens == 38
    assert (found.miscounted, found.untrue) == (0, 0)


def test_a_hit_leaves_one_token_and_keys_are_apart() -> None:
    same = [1, 2, 3, 4]
    rows = look([served(0, 1, 2, prompt=4), served(3, 4, 5, prompt=4, key="other")], [same, same])
    assert rows[1].known == 0
    assert rows[1].possible == 3


def test_false_counts_are_found() -> None:
    ids = [list(range(100)), list(range(200, 300))]
    lie = [served(0, 1, 2, prompt=100), served(3, 4, 5, prompt=99, cached=50)]
    found = hit_rate(look(lie, ids))
    assert (found.miscounted, found.untrue) == (1, 1)
    assert math.isnan(found.rate)


def test_more_than_was_shared_counts_as_all_of_it() -> None:
    ids = [list(range(40)), [*range(30), *range(500, 510)]]
    found = hit_rate(look([served(0, 1, 2, prompt=40), served(3, 4, 5, prompt=40, cached=33)], ids))
    assert found.rate == 1
    assert found.shared_tokens == 30


# --- promises


def test_a_kept_promise_is_judged_by_the_first_place_that_came_free() -> None:
    # Refused at 10 and told 8 s; another request began at 14, so 4 s would have been right.
    other = served(0, 14, 30)
    (found,) = promises([other, served(18, 19, 20, refused=((10, 8),))])
    assert (found.told_s, found.truth_s) == (8, 4)
    assert found.error == 1


def test_places_come_free_for_those_first_who_were_refused_first() -> None:
    others = [served(0, first, 40) for first in (12, 14, 16)]
    refused = [served(25, 26, 27, refused=((at, 15.0),)) for at in (8, 9, 10)]
    found = promises([*others, *refused])
    assert [one.truth_s for one in found] == [12 - 8, 14 - 9, 16 - 10]


def test_places_of_other_keys_are_none_of_its() -> None:
    others = [served(0, 12, 40, key="other"), served(0, 14, 40)]
    (found,) = promises([*others, served(18, 19, 20, refused=((10, 8),))])
    assert found.truth_s == 4


def test_a_broken_promise_is_judged_by_the_try_that_was_let_in() -> None:
    (found,) = promises([served(30, 31, 32, refused=((10, 5), (15, 15)))])
    assert (found.told_s, found.truth_s) == (5, 20)
    assert found.error == pytest.approx(0.75)


def test_waits_below_a_second_count_as_one() -> None:
    other = served(0, 10.2, 10.4)
    (found,) = promises([other, served(11, 12, 13, refused=((10, 1),))])
    assert (found.told_s, found.truth_s, found.error) == (1, 1, 0)


def test_honesty_sums_up() -> None:
    lost = Asked("b", "bot", "k", ASK, [Try(0, 0, 429, 1.0, error="http_429") for _ in range(10)])
    silent = Asked("c", "bot", "k", ASK, [Try(0, 0, 429, None, error="http_429")])
    kept = served(15, 16, 17, refused=((10, 5),))
    found = honesty([lost, silent, kept, served(0, 1, 15)])
    assert (found.refused, found.silent, found.given_up, found.judged) == (12, 1, 1, 1)
    assert found.kept == 0.5
    assert found.error_p50 == 0
    assert math.isnan(honesty([]).error_p50)


# --- memory, hog


def test_growth_compares_thirds() -> None:
    samples = [Sample(n, 2**20 * (1 if n < 6 else 2), 2**20) for n in range(9)]
    assert growth(samples, "front").ratio == 2
    assert growth(samples, "workers").ratio == 1
    assert math.isnan(growth(samples[:2], "front").ratio)


def test_the_victims_bound() -> None:
    assert bound_s(0.05) == 0.25
    assert bound_s(1.0) == 2.0
    alone = [served(0, 0.1, 1) for _ in range(3)]
    draw = random.Random(3)
    late = [served(0, 0.29, 1), *(served(0, draw.uniform(0.1, 0.2), 1) for _ in range(9))]
    hogs = [served(0, 1, 5, refused=((0, 1.0),)), served(0, 1, 5)]
    found = verdict(CASES["one client"], alone, late, hogs, QUIET)
    assert found.good
    assert (found.hog_answers, found.refused) == (2, 1)
    assert not verdict(CASES["one client"], alone, [served(0, 0.31, 1)], [], QUIET).good
    lost = Asked("v", "victim", "k", ASK, [Try(0, 1, 503, error="http_503")])
    assert not verdict(CASES["one client"], alone, [*late, lost], [], QUIET).good


def test_a_background_flood_is_judged_by_the_slowest_victims() -> None:
    alone = [served(0, 0.1, 1)]
    late = [*(served(0, 0.1, 1) for _ in range(9)), served(0, 9, 10)]
    assert verdict(CASES["one client"], alone, late, [], QUIET).good
    assert not verdict(CASES["background"], alone, late, [], QUIET).good


def test_waits_for_slots_are_what_the_server_noted(tmp_path: Path) -> None:
    def line(client: str, waited: float, event: str = "slot granted") -> str:
        steps = {"decode_step_ms": 8.0, "prefill_step_ms": 20.0}
        return json.dumps({"event": event, "client": client, "waited_ms": waited, **steps})

    log = tmp_path / "server.log"
    lines = [line("v", 5.0), line("hog", 900.0), "slot granted: {", line("v", 30.0), line("v", 9.0)]
    log.write_text("\n".join([*lines, line("v", 7.0, "request")]))
    found = waits(read_grants(log, "v".__eq__))
    assert found == Waits(3, 9.0, 30.0, 20.0)
    assert found.good
    assert not Waits(3, 21.0, 30.0, 20.0).good
    assert not waits([]).good


# --- soak


def soaked(**changed: object) -> Summary:
    spread = Spread(1, 1.0, 1.0, 1.0, 1.0)
    bots = Class("bot", 9, 9, 0, spread, spread, spread, 1.0, 1.0, {"http_429": 40}, 0, 0)
    good = Summary(
        duration_s=600,
        classes=[bots],
        jain=1.0,
        gap=Gap(1, 2, 0.5),
        hits=HitRate(1, 1, 1, 1, 1.0, 1.0, 0, 0),
        hits_by_dialect={},
        honesty=Honesty(40, 0, 40, 1.0, 5.0, 0.2, 0.5, 0),
        unfinished=0,
        front=Growth(100, 101, 1.01),
        workers=Growth(100, 96, 0.96),
        samples=[],
    )
    return msgspec.structs.replace(good, **changed)


def test_a_soak_that_held() -> None:
    assert verdicts(soaked(), 0.95) == []
    for short in (0.5, math.nan):
        assert "prefix cache" in verdicts(soaked(), short)[0]


SPREAD = Spread(1, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"workers": Growth(100, 106, 1.06)},
        {"front": Growth(math.nan, math.nan, math.nan)},
        {"honesty": Honesty(40, 1, 40, 1.0, 5.0, 0.2, 0.5, 0)},
        {"honesty": Honesty(40, 0, 40, 1.0, 5.0, 0.4, 0.5, 0)},
        {"honesty": Honesty(40, 0, 40, 1.0, 5.0, 0.2, 0.5, 1)},
        {"honesty": Honesty(40, 0, 19, 1.0, 5.0, 0.2, 0.5, 0)},
        {"hits": HitRate(1, 1, 1, 1, 1.0, 1.0, 0, 1)},
        {"classes": [Class("bot", 9, 0, 0, SPREAD, SPREAD, SPREAD, 1.0, 1.0, {}, 0, 0)]},
        {
            "classes": [
                Class("bot", 9, 9, 0, SPREAD, SPREAD, SPREAD, 1.0, 1.0, {"http_503": 1}, 1, 0)
            ]
        },
        {
            "classes": [
                Class("bot", 9, 9, 0, SPREAD, SPREAD, SPREAD, 1.0, 1.0, {"timeout": 1}, 0, 1)
            ]
        },
        {"classes": [Class("bot", 9, 9, 0, SPREAD, SPREAD, SPREAD, 1.0, 1.0, {"cut": 1}, 0, 0)]},
    ],
)
def test_a_soak_that_did_not_hold(changed: dict[str, object]) -> None:
    assert len(verdicts(soaked(**changed), 1.0)) == 1
