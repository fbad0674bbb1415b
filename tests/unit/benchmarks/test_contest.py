import math

import pytest

from benchmarks.arrivals import Outcome
from benchmarks.client import Record
from benchmarks.compare import parse, scenarios
from benchmarks.contest import Round, against_peer, against_raw, counted, failures, ratio
from benchmarks.measure import Result, summarise
from benchmarks.raw_batch import RawResult
from benchmarks.tables import LINES, Line, verdict


def result(tokens: int, wall_s: float, error: str | None = None) -> Result:
    stamps = [wall_s / 2, wall_s]
    return summarise(Outcome([Record(0.0, wall_s, stamps, 200, error, "", 5, 0, tokens)], []))


def raw(tokens: int, wall_s: float) -> RawResult:
    speed, cost = tokens / wall_s, wall_s * 1000 / tokens
    return RawResult(1, tokens, 5, wall_s, speed, cost, 1.0, 1.0, 1.0)


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    found = ratio([(10, 10), (30, 10), (40, 20)])
    assert (found.ours, found.theirs, found.ratio) == (30, 10, 2)
    assert (found.low, found.high) == (1, 3)
    assert math.isnan(ratio([(1, 0)]).ratio)


def test_the_first_round_is_dropped() -> None:
    slow, fast = result(10, 10.0), result(40, 2.0)
    rounds = [Round({"c1": slow}, {"c1": fast}), Round({"c1": fast}, {"c1": slow})]
    assert against_peer(rounds, "c1", lambda r: r.tokens_per_s).ratio == pytest.approx(20)
    assert counted(rounds[:1]) == rounds[:1]


def test_the_cost_over_the_raw_loop_is_per_token() -> None:
    rounds = [Round({"c1": result(10, 0.05)}, {}, {"c1": raw(20, 0.04)})]
    speed, over_ms = against_raw(rounds, "c1")
    assert speed.ratio == pytest.approx(200 / 500)
    assert over_ms == pytest.approx(3.0)


def test_failures_are_listed_from_every_round() -> None:
    good, bad, false = result(9, 1.0), result(9, 1.0, "http_500"), result(1, 1.0)
    rounds = [Round({"c1": bad}, {"c1": good}), Round({"c1": good}, {"c1": false})]
    assert failures(rounds) == [
        "round 1, c1, ours: 1 x http_500",
        "round 2, c1, peer: 1 requests with false usage",
    ]


@pytest.mark.parametrize(
    ("larger", "value", "wanted"),
    [
        (True, 1.3, "OK (>= 1.3)"),
        (True, 1.2, "below (>= 1.3)"),
        (False, 1.3, "OK (<= 1.3)"),
        (False, 1.4, "below (<= 1.3)"),
        (True, math.nan, "below (>= 1.3)"),
    ],
)
def test_verdicts(larger: bool, value: float, wanted: str) -> None:
    line = Line("c1", "x", lambda r: r.wall_s, larger=larger, goal=1.3)
    assert verdict(line, ratio([(value, 1.0)])) == wanted


@pytest.mark.parametrize("quick", [True, False])
def test_every_line_of_the_table_has_its_scenario(quick: bool) -> None:
    names = [scenario.name for scenario in scenarios(quick, 64)]
    assert {line.scenario for line in LINES} == set(names)
    assert len(set(names)) == len(names)


def test_the_command_line() -> None:
    assert parse([]).threads >= 1
    assert parse(["--quick", "--only", "mlx"]).quick
