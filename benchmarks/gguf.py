"""`make bench-gguf`: a GGUF model through this server, beside the very same engine alone.

Both sides run the same file on the same llama.cpp build (xllamacpp's wheel) with the same
threads, slots and context; the other one is the engine's own HTTP server. Every round plays the
same prompts on both, and who begins changes; a figure is the median of the rounds' own ratios,
with their range. The first round is dropped.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import loop
from benchmarks.arrivals import Plan
from benchmarks.client import Messages, stream_chat
from benchmarks.compare import machine, starter_file
from benchmarks.contest import counted
from benchmarks.measure import Result, measure
from benchmarks.peers import Command, Peer, StartError, opta_lmx, running
from benchmarks.prompts import CalibrationError, PromptMaker, calibrate
from benchmarks.report import number, save, wide_console
from benchmarks.speed import Goal, Line
from benchmarks.stats import median, percentile
from benchmarks.xllama import NAME as ENGINE
from benchmarks.xllama import Setup, xllamacpp_server

OURS = "opta-lmx"
SHARED_TOKENS, OWN_TOKENS = 1500, 32
_LONG_S = 900.0
ALONE, EIGHT, HOG, WARM, COLD = "c1", "c8", "hog8", "warm8", "cold8"
NATIVE = (
    "The wheel itself decodes 10-13 % fewer tokens/s at eight streams than a llama-server compiled "
    "for the machine (measured apart, two threads; its generic build is the likely cause): both "
    "sides here pay that."
)


class GgufRound(msgspec.Struct):
    """One round: scenario to result, for either side."""

    ours: dict[str, Result] = {}
    engine: dict[str, Result] = {}


class Report(msgspec.Struct):
    """What a run gave, for the JSON file."""

    machine: dict[str, str]
    model: str
    native: str = NATIVE
    lines: list[Line] = []
    failures: list[str] = []
    rounds: list[GgufRound] = []


Figure = Callable[[Result], float]


def _speed(result: Result) -> float:
    return result.tokens_per_s


def _first(result: Result) -> float:
    return result.ttft.p50


def _slow_first(result: Result) -> float:
    return result.ttft.p95


FIGURES: tuple[tuple[Goal, str, Figure], ...] = (
    (Goal("tokens/s at one stream", 0.95, 1.0, larger=True), ALONE, _speed),
    (Goal("tokens/s at eight streams", 0.95, 1.0, larger=True), EIGHT, _speed),
    (Goal("the same, all of one client: a slot stays free for others"), HOG, _speed),
    (Goal("first token p50, one stream"), ALONE, _first),
    (Goal("first token p50, eight with 1,500 shared, in cache", 1.0, 0.8), WARM, _first),
    (Goal("first token p95, the same", 1.0, 0.8), WARM, _slow_first),
    (Goal("first token p50, eight where nobody had sent them", 1.0, 0.8), COLD, _first),
    (Goal("first token p95, the same", 1.0, 0.8), COLD, _slow_first),
)


def lines(rounds: Sequence[GgufRound]) -> list[Line]:
    """The figures of what was played, over the rounds that count: ours over the engine's."""
    kept = counted(list(rounds))
    found: list[Line] = []
    for goal, scenario, figure in FIGURES:
        if not kept or scenario not in kept[0].ours:
            continue
        ratios = [_ratio(one, scenario, figure) for one in kept]
        values = [value for value in ratios if not math.isnan(value)]
        ends = percentile(values, 0), percentile(values, 100)
        found.append(Line(goal, median(values), *ends, len(values)))
    return found


def _ratio(one: GgufRound, scenario: str, figure: Figure) -> float:
    theirs = figure(one.engine[scenario])
    return figure(one.ours[scenario]) / theirs if theirs else float("nan")


def failures(rounds: Sequence[GgufRound]) -> Iterator[str]:
    """What went wrong in any round: failed requests, false counts, other prompts."""
    for at, one in enumerate(rounds, 1):
        for side, results in ((OURS, one.ours), (ENGINE, one.engine)):
            for name, result in results.items():
                for kind, count in result.errors.items():
                    yield f"round {at}, {name}, {side}: {count} x {kind}"
                if result.miscounted:
                    yield f"round {at}, {name}, {side}: {result.miscounted} with false usage"
        for name in one.ours.keys() & one.engine.keys():
            prompts = one.ours[name].prompt_tokens, one.engine[name].prompt_tokens
            if abs(prompts[0] - prompts[1]) > 1:  # a template's blank may differ
                yield f"round {at}, {name}: prompts of {prompts[0]} and {prompts[1]} tokens"


class Bots(PromptMaker):
    """Prompts of eight clients in turn: no single one may have all slots of this server."""

    def make(self, index: int) -> Messages:
        """The prompt of that index."""
        return msgspec.structs.replace(super().make(index), client=f"bot-{index % 8}")


class Match:
    """Plays the rounds.

    Args:
        sides: this server and the engine.
        words: of a prompt, of its own part beside a shared one, and of the shared part.
        work: tokens of each answer, and how many waves of answers a scenario has.
        seed: makes the texts.
    """

    def __init__(
        self,
        sides: tuple[Peer, Peer],
        words: tuple[int, int, int],
        work: tuple[int, int],
        seed: str,
    ) -> None:
        self._sides = sides
        self._words, self._own, self._shared = words
        self._max_tokens, self._waves = work
        self._seed = seed

    async def round(self, number: int, names: Sequence[str]) -> GgufRound:
        """One round of these scenarios."""
        found = GgufRound()
        sides = list(zip(self._sides, (found.ours, found.engine), strict=True))
        for place, name in enumerate(names):
            for peer, kept in sides[:: -1 if (number + place) % 2 else 1]:
                kept[name] = await self._play(peer, name, f"{self._seed}/{number}/{name}")
        return found

    async def _play(self, peer: Peer, name: str, seed: str) -> Result:
        if name in (WARM, COLD):
            prompts = Bots(seed, self._own, self._shared)
            if name == WARM:
                await stream_chat(peer.target, prompts.make(-1), 2, timeout_s=_LONG_S)
            return await measure(peer.target, Plan(8, 8, 16, timeout_s=_LONG_S), prompts, peer.pid)
        width = 1 if name == ALONE else 8
        plan = Plan(width, self._waves * width, self._max_tokens)
        maker = PromptMaker if name == HOG else Bots
        return await measure(peer.target, plan, maker(seed, self._words), peer.pid)


async def _match(
    sides: tuple[Peer, Peer], options: argparse.Namespace, note: Callable[[str], None]
) -> list[GgufRound]:
    cost = await calibrate(sides[0].target)
    template = round(cost.fixed)
    words = (
        cost.words(options.prompt_tokens),
        cost.words(template + OWN_TOKENS),
        cost.words(template + SHARED_TOKENS),
    )
    match = Match(sides, words, (options.max_tokens, options.waves), str(time.time()))
    played: list[GgufRound] = []
    for at in range(options.rounds):
        played.append(await match.round(at, options.scenarios))
        shown = (
            f"{scenario}: {number(_ratio(played[-1], scenario, figure), 2)}"
            for _, scenario, figure in FIGURES
            if scenario in options.scenarios
        )
        note(f"round {at + 1} of {options.rounds}: {'  '.join(shown)}")
    return played


def ours(setup: Setup, home: Path) -> Command:
    """This server with the file in a store of its own."""
    from opta_lmx.models.store import ModelStore

    store = ModelStore(home / "models")
    store.sweep()
    store.add(setup.model, "gguf")
    settings = {"BACKEND": "gguf", "SLOTS": setup.slots, "THREADS": setup.threads}
    settings["CONTEXT"] = setup.context
    return opta_lmx("gguf", home, {f"LMX_ENGINE__{key}": str(settings[key]) for key in settings})


def run(options: argparse.Namespace, console: Console) -> Report:
    """Start both sides, play, and sum up. Raises StartError or CalibrationError."""
    setup = Setup(options.model, 8, options.context, options.threads)
    report = Report(machine(), options.model.name)
    with tempfile.TemporaryDirectory(prefix="lmx-bench-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        commands = (ours(setup, scratch / "home"), xllamacpp_server(setup, options.engine_batch))
        first, second = (stack.enter_context(running(one, scratch)) for one in commands)
        report.rounds = loop.run(_match((first, second), options, console.print))
    report.lines = lines(report.rounds)
    report.failures = list(failures(report.rounds))
    return report


def show(console: Console, report: Report) -> None:
    """Print the figures, each side's own, and what went wrong."""
    table = Table("this server / the engine alone", "median", "range", "rounds", "required", "")
    for one in report.lines:
        bound = one.goal.required
        sign = ">=" if one.goal.larger else "<="
        table.add_row(
            one.goal.title,
            number(one.value, 3),
            f"{number(one.low, 2)}-{number(one.high, 2)}",
            str(one.rounds),
            "" if bound is None else f"{sign} {bound:g}",
            one.verdict,
        )
    console.print(table)
    console.print(_sides(counted(report.rounds)))
    console.print(report.native)
    for text in report.failures:
        console.print(f"[red]failed:[/red] {text}")


def _sides(rounds: list[GgufRound]) -> Table:
    columns = ("scenario", "side", "tokens", "tokens/s", "TTFT p50 ms", "p95", "ITL p95", "cached")
    table = Table(*columns, "CPU ms/token", "others")
    for name in rounds[0].ours:
        for side, results in (
            (OURS, [one.ours[name] for one in rounds]),
            (ENGINE, [one.engine[name] for one in rounds]),
        ):
            cpus = [one.cpu for one in results if one.cpu is not None]
            foreign = [cpu.foreign_cores for cpu in cpus if cpu.foreign_cores is not None]
            table.add_row(
                name,
                side,
                number(median(one.tokens for one in results), 0),
                number(median(one.tokens_per_s for one in results)),
                number(median(one.ttft.p50 for one in results), 0),
                number(median(one.ttft.p95 for one in results), 0),
                number(median(one.itl.p95 for one in results), 0),
                number(median(one.cached_tokens for one in results), 0),
                number(median(cpu.server_ms_per_token for cpu in cpus), 2),
                number(median(foreign), 2),
            )
    return table


SCENARIOS = (ALONE, EIGHT, HOG, WARM, COLD)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.gguf", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="a GGUF file; default: the starter of your own store")
    add("--rounds", type=int, default=8, help="the first is dropped")
    add("--threads", type=int, default=1, help="llama.cpp's, on both sides")
    add("--context", type=int, default=2048, help="of each of the eight slots")
    add("--prompt-tokens", type=int, default=64)
    add("--max-tokens", type=int, default=96)
    add("--waves", type=int, default=2, help="of answers, in each scenario of a round")
    add("--engine-batch", type=int, default=0, help="the engine's batch (0: its default)")
    add("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS[:-1])
    add("--require", action="store_true", help="exit code 1 also where a figure is missed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 on failures."""
    options = parse(arguments)
    options.model = options.model or starter_file()
    console = wide_console()
    if options.model is None:
        console.print("no starter in the store: opta-lmx pull starter, or give --model FILE")
        return 1
    try:
        report = run(options, console)
    except (StartError, CalibrationError) as error:
        console.print(f"[red]failed:[/red] {error}")
        return 1
    show(console, report)
    console.print(f"saved {save('gguf', report)}")
    missed = any(one.verdict == "MISSED" for one in report.lines)
    return 1 if report.failures or (options.require and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
