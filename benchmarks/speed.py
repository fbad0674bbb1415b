"""`make bench-peers`: eight streams on the tiny model, this server beside its peers.

Every round plays the same work on this server, mlx_lm.server, vllm-mlx and the bare loop, one
after the other, and who begins changes; a figure is the median of the rounds' own ratios, with
their range. The first round is dropped. vllm-mlx runs in an environment of its own, made when it
is first needed; where it cannot run, one line says why.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import loop
from benchmarks.arrivals import Plan
from benchmarks.compare import machine
from benchmarks.contest import counted, run_raw
from benchmarks.fleet.options import scratch_folder
from benchmarks.fleet.stage import Stage, build_stage, ours, server_of
from benchmarks.fleet.warming import WarmUpError, warm_up
from benchmarks.gate.figures import SharedPrefix
from benchmarks.gate.rounds import ANSWER_TOKENS, PROMPT_TOKENS, SHARED_SCALE, WIDTH, shared_waves
from benchmarks.measure import Result, measure
from benchmarks.peers import Command, Peer, StartError, mlx_lm_server, running
from benchmarks.prompts import CalibrationError, PromptMaker, calibrate
from benchmarks.raw_batch import RawLoop, RawResult
from benchmarks.report import number, save, wide_console
from benchmarks.stats import median, percentile
from benchmarks.vllm_mlx import vllm_mlx

OURS, MLX_LM, VLLM, RAW = "opta-lmx", "mlx_lm.server", "vllm-mlx", "bare loop"
_SHARERS = (OURS, MLX_LM)
_NOT_A_NUMBER = float("nan")


class Goal(msgspec.Struct, frozen=True):
    """What a figure must be, and what it should be; `larger`: more is better.

    One without bounds is for reading.
    """

    title: str
    required: float | None = None
    aim: float | None = None
    larger: bool = False

    def says(self, value: float) -> str:
        """A verdict on a value; one that is no number misses."""

        def reached(bound: float | None) -> bool:
            return bound is None or (value >= bound if self.larger else value <= bound)

        if self.required is None:
            return ""
        if not reached(self.required):
            return "MISSED"
        return "aim reached" if reached(self.aim) else "required reached"


class SpeedRound(msgspec.Struct):
    """One round: results by side."""

    burst: dict[str, Result] = {}
    raw: RawResult | None = None
    shared: dict[str, list[SharedPrefix]] = {}
    cold: dict[str, SharedPrefix] = {}


class Line(msgspec.Struct, frozen=True):
    """A figure over the rounds: the median of its values, and their range."""

    goal: Goal
    value: float
    low: float
    high: float
    rounds: int

    @property
    def verdict(self) -> str:
        """In words."""
        return self.goal.says(self.value)


class Report(msgspec.Struct):
    """What a run gave, for the JSON file."""

    machine: dict[str, str]
    lines: list[Line] = []
    missing: list[str] = []
    failures: list[str] = []
    rounds: list[SpeedRound] = []


def _over(other: str) -> Callable[[SpeedRound], float]:
    def figure(one: SpeedRound) -> float:
        peer = one.burst.get(other)
        return one.burst[OURS].tokens_per_s / peer.tokens_per_s if peer else _NOT_A_NUMBER

    return figure


def _worker_cpu(one: SpeedRound) -> float:
    cpu = one.burst[OURS].cpu
    if cpu is None or one.raw is None:
        return _NOT_A_NUMBER
    return (cpu.server_ms_per_token - cpu.root_ms_per_token) / one.raw.cpu_ms_per_token


def _cold(one: SpeedRound) -> float:
    if MLX_LM not in one.cold:
        return _NOT_A_NUMBER
    return one.cold[OURS].first_token.p95 / one.cold[MLX_LM].first_token.p95


def _shared(one: SpeedRound) -> float:
    if MLX_LM not in one.shared:
        return _NOT_A_NUMBER
    pairs = zip(one.shared[OURS], one.shared[MLX_LM], strict=True)
    return median(ours.first_token.p95 / theirs.first_token.p95 for ours, theirs in pairs)


FIGURES: tuple[tuple[Goal, Callable[[SpeedRound], float]], ...] = (
    (Goal("tokens/s / mlx_lm.server's", 1.3, 1.5, larger=True), _over(MLX_LM)),
    (Goal("tokens/s / vllm-mlx's", 1.2, 1.3, larger=True), _over(VLLM)),
    (Goal("CPU of the worker per token / bare loop's", 1.2, 1.1), _worker_cpu),
    (Goal("first token p95, 1,500 shared / mlx_lm.server's", 0.6, 0.5), _shared),
    (Goal("the same where nobody had sent them before"), _cold),
)


def lines(rounds: Sequence[SpeedRound]) -> list[Line]:
    """All figures over the rounds that count."""
    kept = counted(list(rounds))
    return [
        _line(goal, [value for value in map(figure, kept) if not math.isnan(value)])
        for goal, figure in FIGURES
    ]


def _line(goal: Goal, values: list[float]) -> Line:
    return Line(goal, median(values), percentile(values, 0), percentile(values, 100), len(values))


def failures(rounds: Sequence[SpeedRound]) -> Iterator[str]:
    """What went wrong in any round."""
    for at, one in enumerate(rounds, 1):
        for side, result in one.burst.items():
            for kind, count in result.errors.items():
                yield f"round {at}, {side}: {count} x {kind}"
            if side == OURS and result.miscounted:
                yield f"round {at}, {side}: {result.miscounted} requests with false usage"
        for side in one.cold:
            for wave in (*one.shared[side], one.cold[side]):
                yield from (f"round {at}, {side}: {wrong}" for wrong in wave.wrong(WIDTH))


class Race:
    """Plays the rounds.

    Args:
        sides: the running servers by name, this one among them.
        raw: the bare loop.
        stage: the model.
        words: length of each prompt.
        seed: makes the texts.
    """

    def __init__(
        self, sides: dict[str, Peer], raw: RawLoop, stage: Stage, words: int, seed: str
    ) -> None:
        self._sides = sides
        self._raw = raw
        self._stage = stage
        self._words = words
        self._seed = seed

    async def round(self, number: int) -> SpeedRound:
        """One round."""
        found = SpeedRound()
        prompts = PromptMaker(f"{self._seed}/{number}", self._words)
        plan = Plan(WIDTH, 3 * WIDTH, ANSWER_TOKENS)
        names = list(self._sides)
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            peer = self._sides[name]
            found.burst[name] = await measure(peer.target, plan, prompts, peer.pid)
            if name == OURS:
                # Right after this server, whose CPU is held against it.
                found.raw = run_raw(self._raw, plan, prompts)
        servers = [server_of(self._sides[name], plain=name != OURS) for name in _SHARERS]
        waves = await shared_waves(self._stage, servers, f"{self._seed}/{number}")
        found.shared = dict(zip(_SHARERS, waves, strict=True))
        cold = await shared_waves(
            self._stage, servers, f"{self._seed}/{number}", turn=number, cold=True
        )
        found.cold = {name: one for name, (one,) in zip(_SHARERS, cold, strict=True)}
        return found


async def _play(
    sides: dict[str, Peer], raw: RawLoop, stage: Stage, rounds: int, note: Callable[[str], None]
) -> list[SpeedRound]:
    seed = str(time.time())
    words = (await calibrate(sides[OURS].target)).words(PROMPT_TOKENS)
    for name, peer in sides.items():
        note(f"warming up {name}")
        if name != VLLM:  # It takes no part in the contest of long prompts.
            house = stage.house(SHARED_SCALE, f"{seed}/warm")
            await warm_up(house, server_of(peer, plain=name != OURS), WIDTH)
        await measure(peer.target, Plan(WIDTH, WIDTH, 8), PromptMaker(f"{seed}/warm", words))
    race = Race(sides, raw, stage, words, seed)
    played: list[SpeedRound] = []
    for at in range(rounds):
        played.append(await race.round(at))
        figures = "  ".join(number(figure(played[-1]), 2) for _, figure in FIGURES)
        note(f"round {at + 1} of {rounds}: {figures}")
    return played


def run(options: argparse.Namespace, console: Console) -> Report:
    """Start every side, play, and sum up. Raises StartError, CalibrationError or WarmUpError."""
    report = Report(machine())
    with scratch_folder() as scratch, ExitStack() as stack:
        stage = build_stage(scratch)
        settings = {"LMX_ENGINE__SLOTS": str(WIDTH)}
        makers: dict[str, Callable[[], Command]] = {
            OURS: lambda: ours(stage, scratch / "home", settings, keys=()),
            MLX_LM: lambda: mlx_lm_server(stage.folder, scratch),
            VLLM: lambda: vllm_mlx(stage.folder, scratch),
        }
        sides: dict[str, Peer] = {}
        for name, make in makers.items():
            try:
                sides[name] = stack.enter_context(running(make(), scratch))
            except StartError as error:
                if name != VLLM:
                    raise
                report.missing.append(f"{name} does not run here: {error}")
        raw = stack.enter_context(RawLoop(stage.folder, scratch))
        report.rounds = loop.run(_play(sides, raw, stage, options.rounds, console.print))
    report.lines = lines(report.rounds)
    report.failures = list(failures(report.rounds))
    return report


def show(console: Console, report: Report) -> None:
    """Print the figures, each side's own, and what went wrong."""
    table = Table("figure", "median", "range", "rounds", "required", "aim", "")
    for one in report.lines:
        sign = ">=" if one.goal.larger else "<="
        bounds = [
            "" if bound is None else f"{sign} {bound:g}"
            for bound in (one.goal.required, one.goal.aim)
        ]
        table.add_row(
            one.goal.title,
            number(one.value, 2),
            f"{number(one.low, 2)}-{number(one.high, 2)}",
            str(one.rounds),
            *bounds,
            one.verdict,
        )
    console.print(table)
    console.print(_sides(counted(report.rounds)))
    for text in report.missing:
        console.print(f"missing: {text}")
    for text in report.failures:
        console.print(f"[red]failed:[/red] {text}")


def _sides(rounds: list[SpeedRound]) -> Table:
    table = Table("side", "tokens/s", "CPU ms per token", "of it the root", "first token p95 ms")
    for name in rounds[0].burst:
        results = [one.burst[name] for one in rounds]
        cpus = [one.cpu for one in results if one.cpu is not None]
        table.add_row(
            name,
            number(median(one.tokens_per_s for one in results)),
            number(median(cpu.server_ms_per_token for cpu in cpus), 2),
            number(median(cpu.root_ms_per_token for cpu in cpus), 2),
            number(median(one.ttft.p95 for one in results), 0),
        )
    raws = [one.raw for one in rounds if one.raw is not None]
    table.add_row(
        RAW,
        number(median(one.tokens_per_s for one in raws)),
        number(median(one.cpu_ms_per_token for one in raws), 2),
        "",
        number(median(one.ttft_ms for one in raws), 0),
    )
    return table


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="the first is dropped")
    parser.add_argument("--require", action="store_true", help="exit code 1 also where one missed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 on failures."""
    options = parse(arguments)
    console = wide_console()
    try:
        report = run(options, console)
    except (StartError, CalibrationError, WarmUpError) as error:
        console.print(f"[red]failed:[/red] {error}")
        return 1
    show(console, report)
    console.print(f"saved {save('speed', report)}")
    missed = any(one.verdict == "MISSED" for one in report.lines)
    return 1 if report.failures or (options.require and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
