"""A request that kills its workers is refused; neither its neighbours nor its model pay for it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import LmxError
from tests.integration.serving.test_sim_serving import Stack, outcome, with_stack
from tests.support.waiting import until

WORDS = " ".join(str(number) for number in range(60))
SCRIPT: dict[str, Any] = {
    "reply": WORDS,
    "step_ms": 1,
    "resumes": "all",
    "die_on": "poison",
    "die_after": 2,
}


def restarts(stack: Stack) -> int:
    return stack.engine.status()[0].restarts


async def died(stack: Stack, **fields: Any) -> LmxError:
    async with stack.call("a", text="poison", **fields) as run:
        await run.open()
        with pytest.raises(LmxError) as caught:
            [event.id async for event in run]
    return caught.value


def test_neighbours_of_a_request_that_kills_come_to_their_end(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert await stack.text("a") == f"{WORDS} "
        health = stack.engine.recovery.health
        for deaths in (2, 4, 6, 8):
            neighbours = [asyncio.ensure_future(stack.text("a")) for _ in range(3)]
            await until(
                lambda neighbours=neighbours: (
                    stack.engine.status()[0].running == 3 or neighbours[0].done()
                )
            )
            poison = asyncio.ensure_future(died(stack))
            neighbours += [asyncio.ensure_future(stack.text("a")) for _ in range(3)]
            error = await poison
            assert (error.code, "second one" in error.message) == ("worker_died", True)
            assert await asyncio.gather(*neighbours) == [f"{WORDS} "] * 6
            assert restarts(stack) == deaths
            assert not health.knows("a"), "no crash of it is the model's"

    with_stack(tmp_path, {"a": SCRIPT}, body, slots=4, max_restarts=1)


def test_two_that_kill_are_told_from_those_beside_them(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        calls = [
            outcome(stack.text("a", text=text)) for text in ("x", "poison", "y", "poison", "z")
        ]
        told = await asyncio.gather(*calls)
        assert told == [f"{WORDS} ", "worker_died", f"{WORDS} ", "worker_died", f"{WORDS} "]
        assert restarts(stack) <= 4

    with_stack(tmp_path, {"a": SCRIPT}, body, slots=5)


def test_one_request_counts_once_and_a_model_that_serves_nobody_is_left_alone(
    tmp_path: Path,
) -> None:
    async def body(stack: Stack) -> None:
        for number in (1, 2):
            assert (await died(stack)).code == "worker_died"
            await until(lambda number=number: restarts(stack) == 2 * number)
        assert await outcome(stack.text("a", text="poison")) == "model_quarantined"
        assert stack.engine.recovery.health.quarantined()[0].crashes == 3

    with_stack(tmp_path, {"a": SCRIPT}, body, max_restarts=2)
