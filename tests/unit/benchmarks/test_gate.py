import math
from pathlib import Path

import pytest

from benchmarks.contest import Round
from benchmarks.gate.__main__ import parse, slowed
from benchmarks.gate.figures import FIGURES, GateRound, Limit, SharedPrefix, judge, read_limits
from benchmarks.gate.slow_worker import Stretch
from benchmarks.measure import Cpu, Result
from benchmarks.peers import opta_lmx
from benchmarks.raw_batch import RawResult
from benchmarks.stats import Spread


def result(speed: float, p95_ms: float, worker_cpu: float) -> Result:
    first = Spread(8, p95_ms, p95_ms, p95_ms, p95_ms)
    cpu = Cpu(worker_cpu + 0.5, 0.5, 0.1, 0.0)
    return Result(8, {}, 512, 1.0, speed, 1.0, first, first, 100.0, 0.0, 1.0, 0, cpu, 100.0)


def played(speed: float = 300.0, worker_cpu: float = 1.1, computed: int = 100) -> GateRound:
    ours = {"c8 burst": result(speed, 90.0, worker_cpu), "busy": result(speed, 40.0, 1.0)}
    theirs = {"c8 burst": result(200.0, 200.0, 1.0), "busy": result(200.0, 100.0, 1.0)}
    raw = RawResult(8, 512, 100, 1.0, 400.0, 2.5, 100.0, 1.0, 1.0)
    first = Spread(8, 50.0, 50.0, 50.0, 50.0)
    return GateRound(
        Round(ours, theirs, {"c8 burst": raw}),
        [SharedPrefix(first, computed, 100, 0)],
        [SharedPrefix(Spread(8, 100.0, 100.0, 100.0, 100.0), 100, 100, 0)],
        [SharedPrefix(Spread(8, p95, p95, p95, p95), 100, 100, 0) for p95 in (20.0, 80.0)],
        steps=70,
        answer_tokens=64,
        cpu=[0.5 * worker_cpu, worker_cpu, worker_cpu, 3 * worker_cpu],
    )


def limits(**changed: Limit) -> dict[str, Limit]:
    wide = dict.fromkeys(FIGURES, Limit("", max=math.inf))
    return {**wide, **changed}


def test_the_file_has_a_limit_for_every_figure() -> None:
    assert read_limits().keys() == FIGURES.keys()


@pytest.mark.parametrize(
    "text",
    [
        "[worker_cpu_over_raw]\nabout = ''\nmax = 1.0\n",
        "[nonsense]\nabout = ''\nmax = 1.0\n",
        "".join(f"[{name}]\nabout = ''\n" for name in FIGURES),
        "".join(f"[{name}]\nabout = ''\nmin = 1.0\nmax = 2.0\n" for name in FIGURES),
    ],
    ids=["missing", "unknown", "no bound", "two bounds"],
)
def test_a_wrong_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_limits(path)


def test_the_figures() -> None:
    found = {one.name: one.median for one in judge([played(), played()], limits())}
    assert found["worker_cpu_over_raw"] == pytest.approx(1.1)
    assert found["throughput_over_raw"] == 0.75
    assert found["first_token_over_raw"] == 0.9
    assert found["throughput_over_peer"] == 1.5
    assert found["first_token_over_peer"] == 0.4
    assert found["shared_first_token_over_peer"] == 0.5
    assert found["cold_first_token_over_peer"] == 0.25
    assert found["steps_per_token"] == 70 / 64
    assert found["prefill_over_needed"] == 1


def test_the_median_is_judged_and_the_first_round_dropped() -> None:
    bound = limits(throughput_over_raw=Limit("", min=0.7))
    rounds = [played(1.0), *(played(speed) for speed in (100, 300, 320))]
    one = next(one for one in judge(rounds, bound) if one.name == "throughput_over_raw")
    assert (one.good, one.rounds, one.low, one.high) == (True, 3, 0.25, 0.8)
    worse = judge([played(speed) for speed in (300, 100, 100, 300)], bound)
    assert [one.name for one in worse if not one.good] == ["throughput_over_raw"]


def test_no_number_is_no_pass() -> None:
    assert not Limit("", min=0.5).holds(math.nan)
    assert not Limit("", max=0.5).holds(math.nan)
    assert (str(Limit("", min=0.5)), str(Limit("", max=2))) == (">= 0.5", "<= 2")


def test_work_done_twice_is_seen() -> None:
    bound = limits(prefill_over_needed=Limit("", max=1.1))
    assert all(one.good for one in judge([played(computed=105)], bound))
    assert not all(one.good for one in judge([played(computed=130)], bound))


def test_a_slowed_server_differs_in_its_workers_alone() -> None:
    plain = opta_lmx("m", Path("home"), {})
    slow = slowed(plain, 1.3)
    changed = [
        pair for pair in zip(plain.arguments, slow.arguments, strict=True) if pair[0] != pair[1]
    ]
    assert changed == [("opta_lmx.cli.main", "benchmarks.gate.slow_server")]
    assert slow.environment == {**plain.environment, "SLOWED_BY": "1.3"}
    assert slowed(plain, 1.0) == plain


def test_steps_are_stretched_as_much_as_was_asked() -> None:
    stretch = Stretch(1.3)
    usual = 0.010
    spent = [stretch.least(usual, 8, prefill=False) for _ in range(800)]
    assert sum(spent[8:]) / len(spent[8:]) == pytest.approx(1.3 * usual, rel=0.01)


def test_an_engine_that_works_during_the_pause_is_slowed_all_the_same() -> None:
    """What it would compute next is done by then, so only steps left alone tell the cost."""
    stretch, usual, paused, total = Stretch(1.3), 0.010, 0.0, 0.0
    for _ in range(800):
        took = max(0.001, usual - paused)
        lasts = stretch.least(took, 8, prefill=False)
        paused = lasts - took
        total += lasts
    assert total / 800 == pytest.approx(1.3 * usual, rel=0.05)


def test_prefill_is_stretched_by_its_own_length() -> None:
    assert Stretch(1.3).least(1.0, 8, prefill=True) == pytest.approx(1.3)


def test_the_command_line() -> None:
    assert parse([]).rounds - 1 >= 5
    assert parse(["--slow", "1.3"]).slow == 1.3
