"""Bots and jobs that live side by side for a while."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import msgspec

from benchmarks.fleet.asking import Asked, Server, see_through
from benchmarks.fleet.dialects import Caller
from benchmarks.fleet.script import DIALECTS, Conversation, Dialect, House, job

BOT, JOB = "bot", "job"
BOT_KEY, JOB_KEY = "fleet-key", "jobs-key"
KEYS = (BOT_KEY, JOB_KEY)
_ANNOYED_S = 5.0


class Fleet(msgspec.Struct, frozen=True):
    """Who takes part and for how long.

    Times in seconds. A bot thinks `think_s` (mean) between an answer and its next words, and
    starts a new session after `turns` turns, as OpenClaw does when a window is full. `jobs` is
    how many background jobs are always under way, each of `job_tokens` prompt and
    `job_max_tokens` answer tokens. `timeout_s` of silence count as hanging.
    """

    bots: int
    jobs: int = 4
    duration_s: float = 60.0
    think_s: float = 1.0
    turns: int = 10
    job_tokens: int = 400
    job_max_tokens: int = 160
    timeout_s: float = 120.0
    dialects: tuple[Dialect, ...] = DIALECTS


@dataclass
class Played:
    """All requests of a run, in the order they were begun, and the time it took."""

    asked: list[Asked] = field(default_factory=list)
    start: float = 0.0
    end: float = 0.0
    unfinished: int = 0
    """Requests that were still under way, or waiting to try again, when time was up."""

    def of(self, kind: str) -> list[Asked]:
        """The requests of one kind that were tried."""
        return [one for one in self.asked if one.kind == kind and one.tries]


class Play:
    """One run of a fleet on one server.

    Args:
        fleet: who takes part.
        house: what the bots share.
        server: where they send.
    """

    def __init__(self, fleet: Fleet, house: House, server: Server) -> None:
        self._fleet = fleet
        self._house = house
        self._server = server
        self._played = Played()
        self._jobs = 0
        self._until = 0.0

    async def run(self) -> Played:
        """Play for the fleet's duration; answers under way then may end."""
        fleet, played = self._fleet, self._played
        played.start = time.perf_counter()
        self._until = played.start + fleet.duration_s
        lives = [asyncio.create_task(self._bot(number)) for number in range(fleet.bots)]
        lives += [asyncio.create_task(self._job_line()) for _ in range(fleet.jobs)]
        await asyncio.sleep(fleet.duration_s)
        played.end = time.perf_counter()
        played.unfinished = sum(not task.done() for task in lives)
        # Whoever waits for a place then does not try again.
        await asyncio.gather(*lives)
        return played

    @property
    def _over(self) -> bool:
        return time.perf_counter() >= self._until

    async def _bot(self, number: int) -> None:
        draw = random.Random(f"{self._house.seed}/life/{number}")
        dialect = self._fleet.dialects[number % len(self._fleet.dialects)]
        name = f"bot-{number}"
        # Bots do not start at one moment, nor does any of them think in step with another.
        await self._think(draw)
        session = 0
        while not self._over:
            await self._session(Conversation(self._house, name, session, dialect), name, draw)
            session += 1

    async def _session(self, conversation: Conversation, name: str, draw: random.Random) -> None:
        for _ in range(self._fleet.turns):
            if self._over:
                return
            asked = Asked(name, BOT, BOT_KEY, conversation.ask())
            await self._send(asked, Caller(BOT_KEY, name))
            if not asked.served:
                # The turn failed for good; its user is annoyed for a while, and begins anew.
                await self._rest(_ANNOYED_S)
                return
            conversation.answered(asked.last.text)
            await self._think(draw)

    async def _think(self, draw: random.Random) -> None:
        pause = draw.expovariate(1 / self._fleet.think_s) if self._fleet.think_s else 0.0
        await self._rest(pause)

    async def _rest(self, pause_s: float) -> None:
        """Pause, but not beyond the end of the run."""
        await asyncio.sleep(min(pause_s, max(0.0, self._until - time.perf_counter())))

    async def _job_line(self) -> None:
        caller = Caller(JOB_KEY, lane="background")
        while not self._over:
            self._jobs += 1
            ask = job(self._house, self._jobs, self._fleet.job_tokens, self._fleet.job_max_tokens)
            asked = Asked(f"job-{self._jobs}", JOB, JOB_KEY, ask)
            await self._send(asked, caller)
            if not asked.served:
                await self._rest(_ANNOYED_S)

    async def _send(self, asked: Asked, caller: Caller) -> None:
        self._played.asked.append(asked)
        await see_through(
            asked,
            caller,
            self._server,
            timeout_s=self._fleet.timeout_s,
            until=self._until,
        )
