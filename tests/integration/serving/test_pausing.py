"""Rows that make room: nobody's answer changes, and what was computed is used again."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.backends.frames import CacheChanged as Changed
from opta_lmx.backends.frames import Kept, Reuse, Step, Submit, ToFront
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.principal import Caller, Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.caching import NoCache, Wish
from opta_lmx.engine.prefix.tree import pack
from opta_lmx.engine.residency import Engine
from opta_lmx.serving.service import Serving
from tests.integration.serving.test_sim_serving import Stack, with_stack
from tests.support.sim import engine_options
from tests.support.waiting import until

HOG = Caller(Principal(key="hog"))
VICTIM = Caller(Principal(key="victim"))
REPLY = " ".join(f"w{number}" for number in range(60))
PAUSING: dict[str, Any] = {"reply": REPLY, "step_ms": 5, "pauses": True, "resumes": "all"}


class Keeper(NoCache):
    """Keeps the end of each stay in the worker, and starts the next one from there."""

    def __init__(self) -> None:
        self.handles = 0
        self.kept: dict[int, Kept] = {}
        self.ends: dict[int, int] = {}
        self.asked: list[int] = []
        self.cached: list[int] = []

    def planned(self, request: Submit, wish: Wish) -> Submit:
        assert wish.ids == pack((*request.ids, *request.generated))
        held = self.kept.get(self.ends.get(request.id, 0))
        self.handles += 1
        self.ends[request.id] = self.handles
        reuse = None if held is None else Reuse(held.handle, held.tokens)
        return msgspec.structs.replace(request, keep_end=self.handles, reuse=reuse)

    def hold(self, ticket: int) -> bool:
        self.asked.append(ticket)
        return True

    def take(self, frame: ToFront) -> None:
        if isinstance(frame, Changed):
            self.kept.update((kept.handle, kept) for kept in frame.kept)
        if isinstance(frame, Step):
            self.cached += [started.cached for started in frame.started if started.cached]


def keeping(stack: Stack) -> Keeper:
    """Give the stack an engine whose models have a keeper for their cache."""
    keeper = Keeper()
    options = msgspec.structs.replace(engine_options(max_waiting=32), caches=lambda _: keeper)
    clock, telemetry = SystemClock(), NullTelemetry()
    stack.engine = Engine(stack.resolver, options, clock, telemetry)
    stack.serving = Serving(stack.engine, stack.limits, clock, telemetry)
    return keeper


async def together(stack: Stack) -> tuple[list[str], list[int]]:
    """Answers of a hog with all slots, and of those who come meanwhile."""
    hogs = [asyncio.ensure_future(stack.text("a", caller=HOG)) for _ in range(4)]
    await until(lambda: stack.engine.status() and stack.engine.status()[0].running == 2)
    await until(lambda: stack.engine.status()[0].steps > 5)
    order: list[int] = []
    others: list[str] = []
    for _ in range(3):
        others.append(await stack.text("a", caller=VICTIM, max_tokens=3))
        order.append(sum(hog.done() for hog in hogs))
    assert others == ["w0 w1 w2 "] * 3
    return await asyncio.gather(*hogs), order


def test_a_paused_answer_is_the_same_answer(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        texts, done = await together(stack)
        assert texts == [REPLY + " "] * 4
        assert done[0] == 0
        status = stack.engine.status()[0]
        assert (status.running, status.waiting, status.restarts) == (0, 0, 0)

    with_stack(tmp_path, {"a": PAUSING}, body, slots=2)


def test_a_paused_row_goes_on_from_what_was_held_of_it(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        keeper = keeping(stack)
        texts, done = await together(stack)
        assert texts == [REPLY + " "] * 4
        assert done[0] == 0
        assert keeper.asked
        # All but the last token of what had been said then.
        assert 0 < len(keeper.cached) <= len(keeper.asked)
        assert all(cached > len(b"hello") for cached in keeper.cached)
        await stack.engine.close()

    with_stack(tmp_path, {"a": {**PAUSING, "caches": "trimmable"}}, body, slots=2)
