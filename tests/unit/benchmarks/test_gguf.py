from pathlib import Path

import msgspec
import pytest

from benchmarks.gguf import ALONE, EIGHT, FIGURES, WARM, GgufRound, failures, lines, parse
from benchmarks.measure import Result
from benchmarks.stats import Spread
from benchmarks.xllama import Setup, xllamacpp_server
from benchmarks.xllama import parse as parse_engine


def result(speed: float, first: float = 10.0, **changed: object) -> Result:
    spread = Spread(8, first, 2 * first, 1.0, 1.0)
    good = Result(8, {}, 512, 1.0, speed, 1.0, spread, spread, 100.0, 0.0, 1.0, 0)
    return msgspec.structs.replace(good, **changed)


def played(ours: float, engine: float, first: float = 10.0) -> GgufRound:
    return GgufRound(
        {ALONE: result(ours), EIGHT: result(ours), WARM: result(ours, first)},
        {ALONE: result(engine), EIGHT: result(engine / 2), WARM: result(engine, 10.0)},
    )


def test_figures_are_medians_of_each_rounds_own_ratios() -> None:
    rounds = [played(1, 100), played(100, 100), played(90, 100, 5), played(97, 100, 8)]
    one, eight, _, warm, slow = lines(rounds)  # no figures of what was not played
    assert (one.value, one.low, one.high, one.rounds) == (0.97, 0.9, 1.0, 3)
    assert eight.value == pytest.approx(1.94)
    assert (warm.value, slow.value) == (0.8, 0.8)
    assert [found.verdict for found in (one, eight, warm)] == [
        "required reached",
        "aim reached",
        "aim reached",
    ]
    assert lines([played(90, 100)] * 2)[0].verdict == "MISSED"


def test_only_what_was_played_is_told() -> None:
    one = played(1, 1)
    alone = GgufRound({ALONE: one.ours[ALONE]}, {ALONE: one.engine[ALONE]})
    assert {line.goal for line in lines([alone])} == {
        goal for goal, scenario, _ in FIGURES if scenario == ALONE
    }


def test_failures_false_counts_and_other_prompts_are_told() -> None:
    good = played(1, 1)
    assert list(failures([good])) == []
    bad = msgspec.structs.replace(
        good,
        ours={ALONE: result(1, errors={"http_503": 2}, miscounted=1)},
        engine={ALONE: result(1, prompt_tokens=103.0)},
    )
    assert list(failures([good, bad])) == [
        "round 2, c1, opta-lmx: 2 x http_503",
        "round 2, c1, opta-lmx: 1 with false usage",
        "round 2, c1: prompts of 100.0 and 103.0 tokens",
    ]


def test_both_sides_are_set_up_alike() -> None:
    command = xllamacpp_server(Setup(Path("m.gguf"), slots=8, context=2048, threads=1))
    options = parse_engine([one.replace("{port}", "1234") for one in command.arguments[3:]])
    assert vars(options) == {
        "model": Path("m.gguf"),
        "port": 1234,
        "slots": 8,
        "context": 2048,
        "threads": 1,
        "batch": 0,
    }
    assert parse([]).threads == 1
