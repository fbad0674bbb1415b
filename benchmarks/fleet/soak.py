"""`make soak`: forty bots for ten minutes; exit code 1 unless everything held.

No 5xx, no hang, memory flat (last third within 5 % of the middle third), and every refusal a 429
whose Retry-After is honest. The line is short on purpose, so that there are refusals. A prefix
cache grows until its budget is used up, which is no leak; so its budget is made small here, and
that it is full before the middle third begins, and from then on, is part of what must hold.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from benchmarks import loop
from benchmarks.compare import machine
from benchmarks.fleet import tables
from benchmarks.fleet.drive import BOT_KEY, Fleet
from benchmarks.fleet.options import add_common, scratch_folder, settings_of
from benchmarks.fleet.run import Report, failures, play
from benchmarks.fleet.stage import Stage, build_stage, metrics, ours, server_of
from benchmarks.fleet.summary import Summary
from benchmarks.fleet.warming import WarmUpError, warm_up
from benchmarks.fleet.watch import EVERY_S
from benchmarks.peers import Peer, StartError, running
from benchmarks.report import save, wide_console
from benchmarks.stats import median

FLAT = 0.05
HONEST = 0.30
_CACHE_BYTES = 192 * 1024**2
FULL = 0.8
"""Part of the prefix cache's budget from which it counts as used up: the next state may not fit."""
_GAUGE = "opta_lmx_prefix_cache_bytes"
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
    add("--cache-bytes", type=int, default=_CACHE_BYTES, help="the prefix cache's budget")
    add_common(parser)
    parser.set_defaults(queue=6, scale=0.1)
    return parser.parse_args(arguments)


def verdicts(found: Summary, full: float) -> list[str]:
    """What did not hold; empty when all did.

    Args:
        found: the run.
        full: part of the prefix cache's budget that was used from a third of the run on.
    """
    wrong = failures({"soak": found})
    if not full >= FULL:
        wrong.append(f"the prefix cache was only {full:.0%} full in the later two thirds")
    for name, grown in (("the front", found.front), ("workers", found.workers)):
        # A ratio that is no number means there was nothing to compare: that is no pass.
        if not abs(grown.ratio - 1) <= FLAT:
            wrong.append(f"memory of {name}: last third / middle third is {grown.ratio:.3f}")
    told = found.honesty
    if told.judged < ENOUGH:
        wrong.append(f"only {told.judged} refusals could be judged")
    elif not told.error_p50 <= HONEST:
        wrong.append(f"Retry-After is {told.error_p50:.0%} off at the median")
    if told.given_up:
        wrong.append(f"{told.given_up} requests were refused ten times")
    if not found.of("bot").answered:
        wrong.append("no bot was answered")
    return wrong


async def _fullness(peer: Peer, budget: int, duration_s: float) -> float:
    """Part of its budget that the prefix cache used while memory was compared.

    As the middle third began or, where that is less, at the median since then: a cache that is
    emptied now and then says as little of memory as one that still fills.
    """
    end = time.monotonic() + duration_s
    await asyncio.sleep(duration_s / 3)
    parts: list[float] = []
    while not parts or time.monotonic() < end:
        found = await asyncio.to_thread(metrics, peer, BOT_KEY)
        held = sum(value for name, value in found.items() if name.startswith(_GAUGE))
        parts.append(held / budget)
        await asyncio.sleep(EVERY_S)
    return min(parts[0], median(parts))


async def _soak(peer: Peer, stage: Stage, options: argparse.Namespace) -> tuple[Summary, float]:
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
    full = asyncio.create_task(_fullness(peer, options.cache_bytes, fleet.duration_s))
    return await play(peer, stage, house, fleet, options.slots), await full


def _report(console: Console, options: argparse.Namespace, found: Summary, full: float) -> int:
    tables.show(console, f"{options.bots} bots for {options.minutes:g} minutes", found)
    budget = options.cache_bytes / 2**20
    console.print(f"prefix cache of {budget:.0f} MB: {full:.0%} full in the later two thirds")
    given = {name: str(value) for name, value in vars(options).items()}
    console.print(f"saved {save('soak', Report(machine(), given, {'soak': found}))}")
    wrong = verdicts(found, full)
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
        budget = {"LMX_ENGINE__PREFIX_CACHE_BYTES": str(options.cache_bytes)}
        settings = {**budget, **settings_of(options)}
        try:
            with running(ours(stage, scratch / "home", settings), scratch) as peer:
                found, full = loop.run(_soak(peer, stage, options))
        except (StartError, WarmUpError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    return _report(console, options, found, full)


if __name__ == "__main__":
    sys.exit(main())
