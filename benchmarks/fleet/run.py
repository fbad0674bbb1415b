"""`python -m benchmarks.fleet run`: bots and background jobs side by side, and what they got."""

import argparse
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console

from benchmarks import loop
from benchmarks.compare import machine
from benchmarks.fleet import tables
from benchmarks.fleet.drive import Fleet, Play
from benchmarks.fleet.options import add_common, scratch_folder, settings_of
from benchmarks.fleet.script import House
from benchmarks.fleet.stage import Stage, build_stage, ours, server_of
from benchmarks.fleet.summary import Summary, summarise
from benchmarks.fleet.warming import WarmUpError, warm_up
from benchmarks.fleet.watch import watching
from benchmarks.peers import Peer, StartError, running
from benchmarks.report import save, wide_console


class Report(msgspec.Struct):
    """What a run gave, for the JSON file."""

    machine: dict[str, str]
    options: dict[str, str]
    runs: dict[str, Summary] = {}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet run", description=__doc__)
    add = parser.add_argument
    add("--bots", type=int, nargs="+", default=[6, 12, 40], help="one run for each number")
    add("--jobs", type=int, default=4, help="background jobs always under way")
    add("--duration", type=float, default=60.0, help="seconds of each run")
    add("--think", type=float, default=1.0, help="mean seconds a bot thinks")
    add_common(parser)
    return parser.parse_args(arguments)


async def play(peer: Peer, stage: Stage, house: House, fleet: Fleet, slots: int) -> Summary:
    """One run on a running server."""
    async with watching(peer.pid) as samples:
        played = await Play(fleet, house, server_of(peer)).run()
    return summarise(played, stage.counter, samples, slots)


async def all_runs(
    peer: Peer, stage: Stage, options: argparse.Namespace, console: Console
) -> dict[str, Summary]:
    """Every number of bots in turn; each has a house of its own, so none warms another's cache."""
    server = server_of(peer)
    found: dict[str, Summary] = {}
    for bots in options.bots:
        house = stage.house(options.scale, f"{options.seed}/{bots}")
        await warm_up(house, server, options.slots)
        fleet = Fleet(
            bots=bots,
            jobs=options.jobs,
            duration_s=options.duration,
            think_s=options.think,
            turns=options.turns,
            timeout_s=options.timeout,
        )
        name = f"{bots} bots, {options.jobs} jobs"
        found[name] = await play(peer, stage, house, fleet, options.slots)
        tables.show(console, f"{name}, {options.duration:.0f} s", found[name])
    return found


def failures(runs: dict[str, Summary]) -> list[str]:
    """What may not happen, however slow the machine: 5xx, hangs, refusals without a time."""
    wrong: list[str] = []
    for name, found in runs.items():
        for one in found.classes:
            wrong += [f"{name}: {one.server_errors} x 5xx to {one.kind}s"] * (one.server_errors > 0)
            wrong += [f"{name}: {one.hangs} {one.kind}s hang"] * (one.hangs > 0)
            others = {kind: n for kind, n in one.errors.items() if kind not in _COUNTED}
            wrong += [f"{name}: {count} x {kind} to {one.kind}s" for kind, count in others.items()]
        silent, untrue = found.honesty.silent, found.hits.untrue
        wrong += [f"{name}: {silent} refusals without Retry-After"] * (silent > 0)
        wrong += [f"{name}: {untrue} answers with untrue cached tokens"] * (untrue > 0)
    return wrong


_COUNTED = ("http_429", "timeout", "http_500", "http_502", "http_503", "http_504", "http_529")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 on failures."""
    options = parse(arguments)
    console = wide_console()
    report = Report(machine(), {name: str(value) for name, value in vars(options).items()})
    with scratch_folder() as scratch:
        stage = build_stage(scratch, options.model)
        try:
            with running(ours(stage, scratch / "home", settings_of(options)), scratch) as peer:
                report.runs = loop.run(all_runs(peer, stage, options, console))
        except (StartError, WarmUpError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    console.print(f"saved {save('fleet', report)}")
    wrong = failures(report.runs)
    for line in wrong:
        console.print(f"[red]failed:[/red] {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
