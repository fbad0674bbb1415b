"""`python -m benchmarks.fleet sessions`: what comes from the prefix cache, turn by turn.

One bot after another on a server that does nothing else: a session of several turns, a second
bot of the same house, and a third one after a restart of the server. `mlx_lm.server`, where it
is asked for, gets the very same requests in the same run, as chat completions.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import loop
from benchmarks.compare import machine
from benchmarks.fleet import hits
from benchmarks.fleet.asking import Asked, Server, see_through
from benchmarks.fleet.dialects import Caller
from benchmarks.fleet.drive import BOT, BOT_KEY
from benchmarks.fleet.options import add_common, scratch_folder, settings_of
from benchmarks.fleet.rendering import render
from benchmarks.fleet.script import DIALECTS, Ask, Conversation, Dialect, House
from benchmarks.fleet.stage import Stage, build_stage, ours, server_of
from benchmarks.fleet.tables import percent
from benchmarks.fleet.warming import WarmUpError, warm_up
from benchmarks.peers import Peer, StartError, mlx_lm_server, running
from benchmarks.report import number, save, wide_console
from benchmarks.stats import median

FIRST, SECOND, LATER = "first bot", "second bot", "after a restart"
PEER = "mlx_lm.server"
_DISK_BYTES = 2 * 1024**3
WANTED_TURNS, WANTED_STARTS, WANTED_TTFT = 0.98, 0.80, 0.25


class Outcome(msgspec.Struct, frozen=True):
    """One dialect on one server.

    `turns` is the hit rate from the second turn on; `second` and `restarted` the part of the
    second bot's and of the restarted server's first prompt that came from the cache. TTFT in ms:
    of the first turn of all, of the later ones (median), after the restart.
    """

    side: str
    dialect: str
    turns: hits.HitRate
    second: float
    restarted: float
    cold_ms: float
    warm_ms: float
    restarted_ms: float
    errors: list[str]

    @property
    def good(self) -> bool:
        """True when every target is met."""
        return (
            not self.errors
            and self.turns.rate >= WANTED_TURNS
            and min(self.second, self.restarted) >= WANTED_STARTS
            and self.restarted_ms <= WANTED_TTFT * self.cold_ms
        )


class Report(msgspec.Struct):
    """What a run gave, for the JSON file."""

    machine: dict[str, str]
    options: dict[str, str]
    outcomes: list[Outcome]


@dataclass
class Side:
    """One server's requests by dialect, in the order they were sent."""

    name: str
    joined: bool
    asked: dict[Dialect, list[Asked]] = field(default_factory=dict)

    async def send(self, who: str, ask: Ask, server: Server) -> Asked:
        """Send one request and keep it under the dialect it was written for."""
        sent = msgspec.structs.replace(ask, dialect="completions") if server.plain else ask
        asked = Asked(who, BOT, BOT_KEY, sent)
        await see_through(asked, Caller(BOT_KEY, who), server, timeout_s=300)
        self.asked.setdefault(ask.dialect, []).append(asked)
        return asked

    def outcome(self, dialect: Dialect, stage: Stage) -> Outcome:
        """Sum up one dialect."""
        asked = [one for one in self.asked[dialect] if one.served]
        ids = stage.counter.ids([render(one.ask, joined=self.joined) for one in asked])
        rows = hits.look(asked, ids)
        turns = [one for one in asked if one.who == FIRST]
        return Outcome(
            side=self.name,
            dialect=dialect,
            turns=hits.hit_rate([row for row in rows if row.who == FIRST][1:]),
            second=_cached(rows, SECOND),
            restarted=_cached(rows, LATER),
            cold_ms=_ttft_ms(turns[:1]),
            warm_ms=_ttft_ms(turns[1:]),
            restarted_ms=_ttft_ms([one for one in asked if one.who == LATER]),
            errors=[
                f"{one.who}: {one.last.error}" for one in self.asked[dialect] if not one.served
            ],
        )


def _cached(rows: Sequence[hits.Shared], who: str) -> float:
    return next((row.cached / row.counted for row in rows if row.who == who), float("nan"))


def _ttft_ms(asked: Sequence[Asked]) -> float:
    return median(1000 * one.ttft for one in asked if one.ttft is not None)


class Replay:
    """Plays the sessions on this server and, turn by turn beside it, on the peer.

    Args:
        stage: the model.
        options: the command line's.
    """

    def __init__(self, stage: Stage, options: argparse.Namespace) -> None:
        self._stage = stage
        self._options = options
        self.sides = [Side("opta-lmx", joined=True)]
        if options.peer:
            self.sides.append(Side(PEER, joined=False))

    async def before(self, servers: list[Server]) -> None:
        """The whole first session and the second bot's first turn, in every dialect."""
        await self._warm(servers)
        for dialect in self._options.dialects:
            house = self._house(dialect)
            talk = Conversation(house, "one", 0, dialect)
            for _ in range(self._options.turns):
                talk.answered(await self._both(FIRST, talk.ask(), servers))
            await self._both(SECOND, Conversation(house, "two", 0, dialect).ask(), servers)

    async def after(self, servers: list[Server]) -> None:
        """A third bot's first turn, on servers that were started anew."""
        await self._warm(servers)
        for dialect in self._options.dialects:
            ask = Conversation(self._house(dialect), "three", 0, dialect).ask()
            await self._both(LATER, ask, servers)

    def outcomes(self) -> list[Outcome]:
        """All dialects on all sides."""
        dialects: list[Dialect] = self._options.dialects
        return [side.outcome(dialect, self._stage) for dialect in dialects for side in self.sides]

    async def _both(self, who: str, ask: Ask, servers: list[Server]) -> str:
        """Send to all; the words kept in history are this server's."""
        texts = [
            (await side.send(who, ask, server)).last.text
            for side, server in zip(self.sides, servers, strict=True)
        ]
        return texts[0]

    def _house(self, dialect: Dialect) -> House:
        # A house for each dialect: one must not warm the cache for another.
        return self._stage.house(self._options.scale, f"{self._options.seed}/{dialect}")

    async def _warm(self, servers: list[Server]) -> None:
        for server in servers:
            await warm_up(self._house("completions"), server, 2)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet sessions", description=__doc__)
    add = parser.add_argument
    add("--dialects", nargs="+", choices=DIALECTS, default=list(DIALECTS))
    add("--peer", action="store_true", help="the same requests to mlx_lm.server as well")
    add("--require", action="store_true", help="exit code 1 also where a target is missed")
    add_common(parser)
    return parser.parse_args(arguments)


def show(console: Console, outcomes: list[Outcome]) -> None:
    """Print all outcomes beside their targets."""
    headings = ("dialect", "server", "turns 2..: hit rate", "second bot", "after restart")
    table = Table(*headings, "first content ms: cold / warm / restarted", "miscounted", "targets")
    for one in outcomes:
        times = (number(value, 0) for value in (one.cold_ms, one.warm_ms, one.restarted_ms))
        table.add_row(
            one.dialect,
            one.side,
            percent(one.turns.rate),
            percent(one.second),
            percent(one.restarted),
            " / ".join(times),
            str(one.turns.miscounted),
            "" if one.side == PEER else ("met" if one.good else "missed"),
        )
    table.caption = "targets: 98 %, 80 %, 80 %, restarted at most a quarter of cold"
    console.print(table)


def _play(stage: Stage, options: argparse.Namespace, scratch: Path) -> list[Outcome]:
    replay = Replay(stage, options)
    settings = {"LMX_ENGINE__PREFIX_CACHE_DISK_BYTES": str(_DISK_BYTES), **settings_of(options)}
    own = ours(stage, scratch / "home", settings)
    for part in (replay.before, replay.after):
        with running(own, scratch) as peer:
            if not options.peer:
                loop.run(part([server_of(peer)]))
                continue
            with running(mlx_lm_server(stage.folder, scratch), scratch) as other:
                loop.run(part(_servers(peer, other)))
    return replay.outcomes()


def _servers(peer: Peer, other: Peer) -> list[Server]:
    return [server_of(peer), server_of(other, plain=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 when a request failed."""
    options = parse(arguments)
    console = wide_console()
    with scratch_folder() as scratch:
        try:
            outcomes = _play(build_stage(scratch, options.model), options, scratch)
        except (StartError, WarmUpError) as error:
            console.print(f"[red]failed:[/red] {error}")
            return 1
    show(console, outcomes)
    given = {name: str(value) for name, value in vars(options).items()}
    console.print(f"saved {save('sessions', Report(machine(), given, outcomes))}")
    own = [one for one in outcomes if one.side != PEER]
    failed = [f"{one.dialect}: {error}" for one in own for error in one.errors]
    for line in failed:
        console.print(f"[red]failed:[/red] {line}")
    return 1 if failed or (options.require and not all(one.good for one in own)) else 0


if __name__ == "__main__":
    sys.exit(main())
