"""When requests arrive: in bursts, staggered, or one at a time into a busy batch."""

import asyncio
import random
from typing import Literal

import msgspec

from benchmarks.client import Messages, Record, Target, stream_chat
from benchmarks.prompts import PromptMaker

Arrival = Literal["burst", "staggered", "busy"]

LATE_TOKENS = 8
"""Tokens a late comer asks for: enough to be a stream, little enough to be gone soon."""


class Plan(msgspec.Struct, frozen=True):
    """What to send. `pause_s` is the mean pause before each late comer of a busy batch."""

    concurrency: int
    requests: int
    max_tokens: int
    arrival: Arrival = "burst"
    stagger_s: float = 0.05
    pause_s: float = 0.3
    timeout_s: float = 120.0
    seed: str = "0"


class Outcome(msgspec.Struct):
    """All records of a run; `late` are the late comers of a busy batch, else empty."""

    main: list[Record]
    late: list[Record]


async def drive(target: Target, plan: Plan, prompts: PromptMaker) -> Outcome:
    """Run a plan to its end."""
    if plan.arrival == "busy":
        return await _Busy(target, plan, prompts).run()
    run = _burst if plan.arrival == "burst" else _staggered
    return Outcome(await run(target, plan, prompts), [])


async def _send(target: Target, plan: Plan, messages: Messages) -> Record:
    return await stream_chat(target, messages, plan.max_tokens, timeout_s=plan.timeout_s)


async def _burst(target: Target, plan: Plan, prompts: PromptMaker) -> list[Record]:
    """Waves of `concurrency` requests at one moment; a wave starts when the last is over."""
    records: list[Record] = []
    for start in range(0, plan.requests, plan.concurrency):
        wave = range(start, min(start + plan.concurrency, plan.requests))
        sends = [_send(target, plan, prompts.make(index)) for index in wave]
        records += await asyncio.gather(*sends)
    return records


async def _staggered(target: Target, plan: Plan, prompts: PromptMaker) -> list[Record]:
    """`concurrency` clients, each a step later than the one before, each never idle."""
    waiting = iter(range(plan.requests))
    records: list[Record] = []

    async def client(number: int) -> None:
        await asyncio.sleep(number * plan.stagger_s)
        while (index := next(waiting, None)) is not None:
            records.append(await _send(target, plan, prompts.make(index)))

    await asyncio.gather(*(client(number) for number in range(plan.concurrency)))
    return records


class _Busy:
    """`concurrency - 1` streams that never pause, and one late comer after another."""

    def __init__(self, target: Target, plan: Plan, prompts: PromptMaker) -> None:
        self._target = target
        self._plan = plan
        self._prompts = prompts
        self._running = 0
        self._index = 0
        self._all_run = asyncio.Event()
        self._over = False

    async def run(self) -> Outcome:
        width = self._plan.concurrency - 1
        if width < 1:
            raise ValueError("a busy batch needs a concurrency of 2 or more")
        steady = [asyncio.create_task(self._steady(width)) for _ in range(width)]
        late = await self._late_comers(steady)
        self._over = True
        main = [record for records in await asyncio.gather(*steady) for record in records]
        return Outcome(main, late)

    async def _steady(self, width: int) -> list[Record]:
        records: list[Record] = []
        while not self._over and not (records and records[-1].error):
            self._index += 1
            records.append(
                await stream_chat(
                    self._target,
                    self._prompts.make(self._index),
                    self._plan.max_tokens,
                    timeout_s=self._plan.timeout_s,
                    on_first=None if records else lambda: self._first(width),
                )
            )
        return records

    def _first(self, width: int) -> None:
        self._running += 1
        if self._running >= width:
            self._all_run.set()

    async def _late_comers(self, steady: list[asyncio.Task[list[Record]]]) -> list[Record]:
        """Send one late comer after another, each after a random pause, while others stream."""
        pauses = random.Random(self._plan.seed)
        await self._until_running(steady)
        late: list[Record] = []
        for index in range(self._plan.requests):
            await asyncio.sleep(pauses.uniform(0.2, 1.8) * self._plan.pause_s)
            messages = self._prompts.make(-1 - index)
            late.append(
                await stream_chat(
                    self._target, messages, LATE_TOKENS, timeout_s=self._plan.timeout_s
                )
            )
        return late

    async def _until_running(self, steady: list[asyncio.Task[list[Record]]]) -> None:
        """Wait until every steady stream has begun, or one has failed."""
        begun = asyncio.create_task(self._all_run.wait())
        await asyncio.wait([begun, *steady], return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
