import math
from pathlib import Path

import msgspec
import pytest

from benchmarks import vllm_mlx
from benchmarks.gate.figures import SharedPrefix
from benchmarks.measure import Cpu, Result
from benchmarks.peers import StartError
from benchmarks.raw_batch import RawResult
from benchmarks.speed import (
    FIGURES,
    MLX_LM,
    OURS,
    VLLM,
    Goal,
    SpeedRound,
    failures,
    lines,
    parse,
)
from benchmarks.stats import Spread


def result(speed: float, **changed: object) -> Result:
    spread = Spread(8, 1.0, 1.0, 1.0, 1.0)
    cpu = Cpu(2.5, 0.5, 0.1, 0.0)
    good = Result(8, {}, 512, 1.0, speed, 1.0, spread, spread, 100.0, 0.0, 1.0, 0, cpu, 100.0)
    return msgspec.structs.replace(good, **changed)


def shared(p95: float) -> SharedPrefix:
    return SharedPrefix(Spread(8, 1.0, p95, p95, p95), 1, 1, 0)


def played(ours: float, mlx_lm: float, vllm: float | None) -> SpeedRound:
    burst = {OURS: result(ours), MLX_LM: result(mlx_lm)}
    if vllm is not None:
        burst[VLLM] = result(vllm)
    raw = RawResult(8, 512, 100, 1.0, 400.0, 2.5, 100.0, 1.0, cpu_ms_per_token=1.6)
    warm = {OURS: [shared(30.0)], MLX_LM: [shared(100.0)]}
    return SpeedRound(burst, raw, warm, {OURS: shared(20.0), MLX_LM: shared(100.0)})


def test_figures_are_medians_of_each_rounds_own_ratios() -> None:
    rounds = [played(1, 100, 1), played(300, 200, 200), played(160, 100, 100), played(30, 10, 40)]
    speed, peer, cpu, first, cold = lines(rounds)
    assert (speed.value, speed.low, speed.high) == (1.6, 1.5, 3.0)
    assert peer.value == 1.5
    assert cpu.value == pytest.approx(1.25)
    assert first.value == pytest.approx(0.3)
    assert cold.value == pytest.approx(0.2)
    verdicts = [one.verdict for one in (speed, peer, cpu, first, cold)]
    assert verdicts == ["aim reached", "aim reached", "MISSED", "aim reached", ""]


def test_a_peer_that_is_not_there_is_no_pass() -> None:
    found = lines([played(300, 200, None)] * 3)
    assert math.isnan(found[1].value)
    assert found[1].verdict == "MISSED"
    assert found[0].verdict == "aim reached"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.5, "aim reached"), (0.55, "required reached"), (0.61, "MISSED"), (math.nan, "MISSED")],
)
def test_between_the_aim_and_what_is_required(value: float, wanted: str) -> None:
    assert Goal("", 0.6, 0.5).says(value) == wanted


def test_failures_of_every_side_are_listed() -> None:
    bad = SpeedRound({OURS: result(1, miscounted=2), VLLM: result(1, errors={"cut": 3})})
    assert list(failures([bad])) == [
        "round 1, opta-lmx: 2 requests with false usage",
        "round 1, vllm-mlx: 3 x cut",
    ]


def test_the_command_line_asks_for_enough_rounds() -> None:
    assert parse([]).rounds - 1 >= 5
    assert sum(goal.required is not None for goal, _ in FIGURES) == 4


def test_a_peer_environment_is_used_as_long_as_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str]) -> None:
        ran.append(command)
        tmp_path.mkdir(exist_ok=True)

    monkeypatch.setattr(vllm_mlx, "_run", run)
    vllm_mlx.environment(tmp_path)
    made = len(ran)
    assert made == 3
    vllm_mlx.environment(tmp_path)
    assert len(ran) == made
    monkeypatch.setattr(vllm_mlx, "NEEDED", ("mlx-lm==0",))
    vllm_mlx.environment(tmp_path)
    assert ran[-1][-1] == "mlx-lm==0"
    assert len(ran) == 2 * made


def test_an_environment_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_mlx.sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(StartError, match="cannot be made"):
        vllm_mlx.environment(tmp_path / "home")
