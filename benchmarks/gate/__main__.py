"""`make perf-gate`: is this server as fast as it has to be, on this machine, in this run?

Every round plays the same work on this server, on mlx_lm.server and in a bare BatchGenerator
loop, one after the other. Medians of the rounds' own ratios, and work that is counted and not
timed, are held against thresholds.toml. `--slow 1.3` runs this server with an engine whose steps
really take 1.3 times as long, which has to turn the gate red; `--prove` does both runs.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import loop
from benchmarks.compare import machine
from benchmarks.contest import failures
from benchmarks.fleet.options import scratch_folder
from benchmarks.fleet.stage import build_stage, ours
from benchmarks.fleet.warming import WarmUpError
from benchmarks.gate.figures import GateRound, Judged, judge, read_limits
from benchmarks.gate.rounds import Sides, play
from benchmarks.peers import Command, StartError, mlx_lm_server, running
from benchmarks.prompts import CalibrationError
from benchmarks.raw_batch import RawLoop
from benchmarks.report import number, save, wide_console

SLOTS = 8
_PLAIN, _SLOW = "opta_lmx.cli.main", "benchmarks.gate.slow_server"


class Report(msgspec.Struct):
    """What a run gave, for the JSON file."""

    machine: dict[str, str]
    slow: float
    figures: list[Judged]
    failures: list[str]
    rounds: list[GateRound]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.gate", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=6, help="the first is dropped")
    add("--slow", type=float, default=1.0, metavar="FACTOR", help="slow the engine's steps down")
    add("--prove", action="store_true", help="as it is (green), then slowed by 1.3 (red)")
    return parser.parse_args(arguments)


def slowed(command: Command, factor: float) -> Command:
    """The same server with workers whose steps take `factor` times as long."""
    if factor == 1.0:
        return command
    return msgspec.structs.replace(
        command,
        arguments=[_SLOW if each == _PLAIN else each for each in command.arguments],
        environment={**command.environment, "SLOWED_BY": str(factor)},
    )


def run(rounds: int, factor: float, console: Console) -> Report:
    """Play all rounds. Raises StartError, CalibrationError or WarmUpError."""
    limits = read_limits()
    with scratch_folder() as scratch:
        stage = build_stage(scratch)
        settings = {"LMX_ENGINE__SLOTS": str(SLOTS)}
        own = slowed(ours(stage, scratch / "home", settings, keys=()), factor)
        with (
            console.status("starting") as note,
            running(own, scratch) as peer,
            running(mlx_lm_server(stage.folder, scratch), scratch) as other,
            RawLoop(stage.folder, scratch) as raw,
        ):
            sides = Sides(peer, other, raw)
            played = loop.run(play(sides, stage, rounds, str(time.time()), note.update))
    wrong = failures([one.played for one in played])
    for one in played:
        for wave in (*one.ours, *one.theirs, *one.cold):
            wrong += wave.wrong(SLOTS)
    return Report(machine(), factor, judge(played, limits), wrong, played)


def show(console: Console, report: Report) -> bool:
    """Print all figures; True when the gate is green."""
    slow = "" if report.slow == 1.0 else f", engine steps slowed by {report.slow:g}"
    table = Table("figure", "median", "range", "limit", "", title=f"performance gate{slow}")
    for one in report.figures:
        spread = f"{number(one.low, 2)}-{number(one.high, 2)}"
        mark = "ok" if one.good else "[red]MISSED[/red]"
        table.add_row(
            f"{one.name}\n[dim]{one.about}[/dim]", number(one.median, 3), spread, one.limit, mark
        )
    console.print(table)
    for line in report.failures:
        console.print(f"[red]failed:[/red] {line}")
    return not report.failures and all(one.good for one in report.figures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 0 when the gate is green (with --prove: green, then red)."""
    options = parse(arguments)
    console = wide_console()
    factors = [1.0, 1.3] if options.prove else [options.slow]
    greens: list[bool] = []
    for factor in factors:
        try:
            report = run(options.rounds, factor, console)
        except (StartError, CalibrationError, WarmUpError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
        greens.append(show(console, report))
        console.print(f"saved {save('gate', report)}")
        console.print(
            "the gate is [green]green[/green]" if greens[-1] else "the gate is [red]red[/red]"
        )
    return 0 if greens == ([True, False] if options.prove else [True]) else 1


if __name__ == "__main__":
    sys.exit(main())
