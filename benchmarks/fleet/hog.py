"""`python -m benchmarks.fleet hog`: what a victim waits while one key floods the server.

The hog keeps many requests in flight; victims come one by one, of another key or of its own. A
victim's first content token may take twice as long as alone, or 200 ms more, whichever is later.
Of that, the wait for a slot is what the server itself has noted, beside its own steps.
"""

import argparse
import asyncio
import contextlib
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import loop
from benchmarks.compare import machine, starter_file
from benchmarks.fleet.asking import Asked, Server, see_through
from benchmarks.fleet.dialects import Caller
from benchmarks.fleet.options import add_common, scratch_folder, settings_of
from benchmarks.fleet.script import House, Sizes, Text, job
from benchmarks.fleet.slots import Waits, read_grants, waits
from benchmarks.fleet.stage import build_stage, ours, server_of
from benchmarks.fleet.warming import WarmUpError, warm_up
from benchmarks.peers import Command, Peer, StartError, opta_lmx, running
from benchmarks.report import number, save, wide_console
from benchmarks.stats import median, percentile

HOG_KEY, VICTIM_KEY = "hog-key", "victim-key"
_TIMES, _MORE_S = 2.0, 0.2
_TOKENS_PER_WORD = 1.4
"""For a GGUF model, whose tokenizer is not read here: near enough, and the same for all."""


class Case(msgspec.Struct, frozen=True):
    """One flood: `lane` it asks for, whether it names itself anew each time, and its victims.

    Victims of the flood's `own` key are another client of it. `judged`: the bound is demanded;
    `late` is the percentile that is held to it.
    """

    name: str
    lane: str = ""
    rotate: bool = False
    own: bool = False
    judged: bool = True
    late: float = 50.0

    @property
    def key(self) -> str:
        """Of the victims."""
        return HOG_KEY if self.own else VICTIM_KEY


CASES = {
    one.name: one
    for one in (
        Case("one client"),
        Case("rotating clients", rotate=True),
        Case("background", "background", late=95.0),
        Case("own key", own=True, judged=False),
        Case("own key, rotating", rotate=True, own=True, judged=False),
    )
}


class Verdict(msgspec.Struct, frozen=True):
    """A case's figures in ms; `bound_ms` is what the median (background: p95) may be at most.

    `waits` are the victims' for a slot, `alone` the same without a hog.
    """

    case: Case
    solo_ms: float
    p50_ms: float
    p95_ms: float
    bound_ms: float
    more_ms: float
    hog_answers: int
    refused: int
    errors: list[str]
    alone: Waits
    waits: Waits

    @property
    def good(self) -> bool:
        """True when the victims came through in time."""
        late = self.p50_ms if self.case.late == 50 else self.p95_ms
        return not self.errors and late <= self.bound_ms


class Report(msgspec.Struct):
    """What a run gave, for the JSON file."""

    machine: dict[str, str]
    options: dict[str, str]
    verdicts: list[Verdict]


def bound_s(solo_s: float) -> float:
    """The longest a victim's first content may take."""
    return max(_TIMES * solo_s, solo_s + _MORE_S)


class Flood:
    """Keeps `width` requests of the hog in flight until it is stopped.

    Args:
        house: makes the prompts.
        server: where to send.
        case: in which way.
        options: the command line's.
    """

    def __init__(
        self, house: House, server: Server, case: Case, options: argparse.Namespace
    ) -> None:
        self._house = house
        self._server = server
        self._case = case
        self._options = options
        self._number = 0
        self._first = asyncio.Event()
        self.asked: list[Asked] = []

    async def run(self) -> None:
        """Flood."""
        await asyncio.gather(*(self._line() for _ in range(self._options.hogs)))

    async def until_served(self) -> None:
        """Return when the first of them has begun to speak."""
        await self._first.wait()

    async def _line(self) -> None:
        while True:
            self._number += 1
            client = f"hog-{self._number}" if self._case.rotate else "hog"
            tokens, most = self._options.prompt_tokens, self._options.max_tokens
            asked = Asked(client, "hog", HOG_KEY, job(self._house, self._number, tokens, most))
            self.asked.append(asked)
            await see_through(
                asked,
                Caller(HOG_KEY, client, self._case.lane),
                self._server,
                timeout_s=self._options.timeout,
                on_first=self._first.set,
            )


async def victims(
    house: House, server: Server, options: argparse.Namespace, caller: Caller, first: int
) -> list[Asked]:
    """Ten requests of a caller, one after another, at moments that have no rhythm."""
    draw = random.Random(f"{options.seed}/victims")
    found: list[Asked] = []
    for place in range(options.victims):
        await asyncio.sleep(draw.uniform(0.05, 0.4))
        ask = job(house, -first - place, options.prompt_tokens, 8)
        asked = Asked(caller.client, "victim", caller.key, ask)
        await see_through(asked, caller, server, timeout_s=options.timeout)
        found.append(asked)
    return found


async def play(
    house: House, peer: Peer, options: argparse.Namespace, note: Callable[[str], None]
) -> list[Verdict]:
    """Every case, each beside victims that were alone just before; `note` is told of each."""
    await warm_up(house, server_of(peer), options.slots, HOG_KEY, options.prompt_tokens)
    found: list[Verdict] = []
    for place, name in enumerate(options.cases, 1):
        one = await _case(house, peer, options, CASES[name], 1000 * place)
        note(f"{name}: alone {one.solo_ms:.0f} ms, beside the hog {one.p50_ms:.0f} ms")
        found.append(one)
    return found


async def _case(
    house: House, peer: Peer, options: argparse.Namespace, case: Case, first: int
) -> Verdict:
    server, alone, beside = server_of(peer), f"alone-{first}", f"victim-{first}"
    solo = await victims(house, server, options, Caller(case.key, alone), first)
    flood = Flood(house, server, case, options)
    task = asyncio.create_task(flood.run())
    await flood.until_served()
    found = await victims(house, server, options, Caller(case.key, beside), first + 500)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.5)  # The server notices that the hog has gone before the next case.
    told = [waits(read_grants(peer.log, who.__eq__)) for who in (alone, beside)]
    return verdict(case, solo, found, flood.asked, (told[0], told[1]))


def verdict(
    case: Case,
    alone: list[Asked],
    found: list[Asked],
    hogs: list[Asked],
    told: tuple[Waits, Waits],
) -> Verdict:
    """Hold the victims' first tokens against the bound.

    Args:
        case: the flood.
        alone: victims without a hog.
        found: victims beside it.
        hogs: the hog's requests.
        told: what either kind of victims waited for a slot, as the server says.
    """
    solo_s = median(one.ttft for one in alone if one.ttft is not None)
    late = [one.ttft for one in found if one.ttft is not None]
    return Verdict(
        case=case,
        solo_ms=1000 * solo_s,
        p50_ms=1000 * median(late),
        p95_ms=1000 * percentile(late, 95),
        bound_ms=1000 * bound_s(solo_s),
        more_ms=1000 * (median(late) - solo_s),
        hog_answers=sum(one.served for one in hogs),
        refused=sum(each.refused for one in hogs for each in one.tries),
        errors=[one.last.error or "" for one in (*alone, *found) if not one.served],
        alone=told[0],
        waits=told[1],
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet hog", description=__doc__)
    add = parser.add_argument
    add("--hogs", type=int, default=24, help="requests the hog keeps in flight")
    add("--victims", type=int, default=10)
    add("--prompt-tokens", type=int, default=200)
    add("--max-tokens", type=int, default=96, help="of the hog's answers")
    add(
        "--backend",
        choices=("mlx", "gguf"),
        default="mlx",
        help="gguf: the pulled starter, or --gguf",
    )
    add("--gguf", type=Path, help="another GGUF file")
    add("--cases", nargs="+", choices=CASES, default=list(CASES), help="which floods")
    add("--require", action="store_true", help="exit code 1 also where the bound is missed")
    add_common(parser)
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace, scratch: Path) -> tuple[Command, House]:
    keys = (HOG_KEY, VICTIM_KEY)
    loud = {"LMX_LOGGING__LEVEL": "debug"}  # Every slot's wait is a line then.
    if options.backend == "mlx":
        stage = build_stage(scratch, options.model)
        command = ours(stage, scratch / "home", {**loud, **settings_of(options)}, keys)
        return command, stage.house(options.scale, options.seed)
    from opta_lmx.models.store import ModelStore

    path = options.gguf or starter_file()
    if path is None:
        raise StartError("the starter model is not in the store (pull it first)")
    home = scratch / "home-gguf"
    store = ModelStore(home / "models")
    store.sweep()
    store.add(path, "starter")
    settings = {
        "LMX_ENGINE__BACKEND": "gguf",
        "LMX_ENGINE__THREADS": "1",
        "LMX_ENGINE__CONTEXT": "2048",
        "LMX_SERVER__API_KEYS": msgspec.json.encode(keys).decode(),
        **loud,
        **settings_of(options),
    }
    command = msgspec.structs.replace(opta_lmx("starter", home, settings), key=keys[0])
    return command, House(Text(_TOKENS_PER_WORD), Sizes().scaled(options.scale), options.seed)


def show(console: Console, verdicts: list[Verdict]) -> None:
    """Print every case."""
    table = Table("hog", "alone p50 ms", "victims p50 / p95 ms", "bound ms", "more than alone ms")
    for heading in ("its answers", "refused", "", "wait for a slot p50 / most ms", "alone"):
        table.add_column(heading)
    table.add_column("step + chunk ms")
    table.add_column("")
    for one in verdicts:
        table.add_row(
            one.case.name,
            number(one.solo_ms, 0),
            f"{number(one.p50_ms, 0)} / {number(one.p95_ms, 0)}",
            number(one.bound_ms, 0),
            number(one.more_ms, 0),
            str(one.hog_answers),
            str(one.refused),
            ("in time" if one.good else "LATE") if one.case.judged or one.good else "late",
            f"{number(one.waits.p50_ms)} / {number(one.waits.most_ms)}",
            number(one.alone.p50_ms),
            number(one.waits.steps_ms),
            "within" if one.waits.good else "BEYOND",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 when a victim got no answer."""
    options = parse(arguments)
    console = wide_console()
    with scratch_folder() as scratch:
        try:
            command, house = _command(options, scratch)
            with running(command, scratch) as peer:
                verdicts = loop.run(play(house, peer, options, console.print))
        except (StartError, WarmUpError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    show(console, verdicts)
    given = {name: str(value) for name, value in vars(options).items()}
    console.print(f"saved {save('hog', Report(machine(), given, verdicts))}")
    failed = any(one.errors for one in verdicts)
    missed = any(one.case.judged and not (one.good and one.waits.good) for one in verdicts)
    return 1 if failed or (options.require and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
