"""`make soak`: forty bots for ten minutes; exit code 1 unless everything held.

No 5xx, no hang, memory flat (last third within 5 % of the middle third), and every refusal a 429
whose Retry-After is honest. The line is short on purpose, so that there are refusals, and the
prefix cache small, so that it is full long before memory is compared.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks import loop
from benchmarks.compare import machine
from benchmarks.fleet import tables
from benchmarks.fleet.drive import Fleet
from benchmarks.fleet.options import add_common, scratch_folder, settings_of
from benchmarks.fleet.run import Report, failures, play
from benchmarks.fleet.stage import Stage, build_stage, ours, server_of
from benchmarks.fleet.summary import Summary
from benchmarks.fleet.warming import WarmUpError, warm_up
from benchmarks.peers import Peer, StartError, running
from benchmarks.report import save, wide_console

FLAT = 0.05
HONEST = 0.30
_CACHE_BYTES = 128 * 1024**2
ENOUGH = 20
"""Refusals below which their median says nothing."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet soak", description=__doc__)
    add = parser.add_argument
    add("--bots", type=int, default=40)
    add("--jobs", type=int, default=8, help="background jobs always under way")
    add("--minutes", type=float, default=10.0)
    add("--think", type=float, default=5.0, help="mean seconds a bot thinks")
    add_common(parser)
    parser.set_defaults(queue=16, scale=0.1)
    return parser.parse_args(arguments)


def verdicts(found: Summary) -> list[str]:
    """What did not hold; empty when all did."""
    wrong = failures({"soak": found})
    for name, grown in (("the front", found.front), ("workers", found.workers)):
        # A ratio that is no number means there was nothing to compare: that is no pass.
        if not abs(grown.ratio - 1) <= FLAT:
            wrong.append(f"memory of {name}: last third / middle third is {grown.ratio:.3f}")
    told = found.honesty
    if told.judged >= ENOUGH and not told.error_p50 <= HONEST:
        wrong.append(f"Retry-After is {told.error_p50:.0%} off at the median")
    if told.given_up:
        wrong.append(f"{told.given_up} requests were refused ten times")
    if not found.of("bot").answered:
        wrong.append("no bot was answered")
    return wrong


async def _soak(peer: Peer, stage: Stage, options: argparse.Namespace) -> Summary:
    house = stage.house(options.scale, options.seed)
    await warm_up(house, server_of(peer), options.slots)
    fleet = Fleet(
        bots=options.bots,
        jobs=options.jobs,
        duration_s=60 * options.minutes,
        think_s=options.think,
        turns=options.turns,
        timeout_s=options.timeout,
    )
    return await play(peer, stage, house, fleet, options.slots)


def _report(console: Console, options: argparse.Namespace, found: Summary) -> int:
    tables.show(console, f"{options.bots} bots for {options.minutes:g} minutes", found)
    given = {name: str(value) for name, value in vars(options).items()}
    console.print(f"saved {save('soak', Report(machine(), given, {'soak': found}))}")
    wrong = verdicts(found)
    for line in wrong:
        console.print(f"[red]failed:[/red] {line}")
    if not wrong:
        console.print("everything held")
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 unless everything held."""
    options = parse(arguments)
    console = wide_console()
    with scratch_folder() as scratch:
        stage = build_stage(scratch, options.model)
        settings = {"LMX_ENGINE__PREFIX_CACHE_BYTES": str(_CACHE_BYTES), **settings_of(options)}
        try:
            with running(ours(stage, scratch / "home", settings), scratch) as peer:
                found = loop.run(_soak(peer, stage, options))
        except (StartError, WarmUpError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    return _report(console, options, found)


if __name__ == "__main__":
    sys.exit(main())
