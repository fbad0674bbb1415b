"""A request that kills its workers is refused; neither its neighbours nor its model pay for it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Caller, Lane
from tests.integration.serving.test_sim_serving import Stack, outcome, with_stack
from tests.support.waiting import until

WORDS = " ".join(str(number) for number in range(60))
LONG = " ".join(str(number) for number in range(800))
SCRIPT: dict[str, Any] = {
    "reply": WORDS,
    "step_ms": 1,
    "resumes": "all",
    "die_on": "poison",
    "die_after": 2,
}


def restarts(stack: Stack) -> int:
    return stack.engine.status()[0].restarts


async def died(stack: Stack, text: str = "poison") -> LmxError:
    async with stack.call("a", text=text) as run:
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
            poison = asyncio.ensure_future(died(stack, f"poison {deaths}"))
            neighbours += [asyncio.ensure_future(stack.text("a")) for _ in range(3)]
            error = await poison
            assert (error.code, "second one" in error.message) == ("worker_died", True)
            assert await asyncio.gather(*neighbours) == [f"{WORDS} "] * 6
            assert restarts(stack) == deaths
            assert not health.knows("a"), "no crash of it is the model's"

    with_stack(tmp_path, {"a": SCRIPT}, body, slots=4, max_restarts=1)


@pytest.mark.parametrize("prepare_ms", [0, 5])
def test_two_that_kill_are_told_from_those_beside_them(tmp_path: Path, prepare_ms: int) -> None:
    async def body(stack: Stack) -> None:
        calls = [
            outcome(stack.text("a", text=text)) for text in ("x", "poison", "y", "poison 2", "z")
        ]
        told = await asyncio.gather(*calls)
        assert told == [f"{WORDS} ", "worker_died", f"{WORDS} ", "worker_died", f"{WORDS} "]
        assert restarts(stack) <= 4

    with_stack(tmp_path, {"a": {**SCRIPT, "prepare_ms": prepare_ms}}, body, slots=5)


def test_who_was_cleared_is_not_held_to_account_for_the_next_that_kills(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        neighbour = asyncio.ensure_future(stack.text("a", text="x"))
        await until(lambda: bool(stack.engine.status()) and stack.engine.status()[0].running == 1)
        for number in range(3):
            assert (await died(stack, f"poison {number}")).code == "worker_died"
            assert not neighbour.done()
        assert await neighbour == f"{LONG} "

    with_stack(tmp_path, {"a": {**SCRIPT, "reply": LONG}}, body, max_restarts=9)


def test_no_suspect_is_tried_beside_a_newcomer_that_kills(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        later = Caller(lane=Lane.BACKGROUND)
        calls = [stack.text("a", text=text, caller=later) for text in ("x", "y")]
        neighbours = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: bool(stack.engine.status()) and stack.engine.status()[0].running == 2)
        first = asyncio.ensure_future(outcome(stack.text("a", text="poison 1", caller=later)))
        await until(lambda: stack.engine.status()[0].state != "ready")
        second = asyncio.ensure_future(outcome(stack.text("a", text="poison 2")))
        assert [await first, await second] == ["worker_died"] * 2
        assert await asyncio.gather(*neighbours) == [f"{LONG} "] * 2

    with_stack(tmp_path, {"a": {**SCRIPT, "reply": LONG}}, body, max_restarts=9)


def test_prompts_in_preparation_do_not_pay_for_rows(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert await stack.text("a") == f"{WORDS} "
        poison = asyncio.ensure_future(died(stack))
        await until(lambda: stack.engine.status()[0].running == 1)
        others = [asyncio.ensure_future(stack.text("a", text=text)) for text in "xyz"]
        assert (await poison).code == "worker_died"
        assert await asyncio.gather(*others) == [f"{WORDS} "] * 3
        assert restarts(stack) == 2

    with_stack(tmp_path, {"a": {**SCRIPT, "prepare_ms": 60, "step_ms": 20}}, body)


def test_rows_do_not_pay_for_a_prompt_that_kills_when_prepared(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        neighbours = [asyncio.ensure_future(stack.text("a", text=text)) for text in "xy"]
        await until(lambda: bool(stack.engine.status()) and stack.engine.status()[0].running == 2)
        told = [stack.text("a", text=text) for text in ("bad 1", "z", "bad 2")]
        assert await asyncio.gather(*map(outcome, told)) == [
            "worker_died",
            f"{LONG} ",
            "worker_died",
        ]
        assert await asyncio.gather(*neighbours) == [f"{LONG} "] * 2

    script = {**SCRIPT, "reply": LONG, "prepare_ms": 5, "die_preparing": "bad"}
    with_stack(tmp_path, {"a": script}, body, max_restarts=9)


@pytest.mark.parametrize("fault", ["die_on", "die_preparing"])
def test_who_kills_and_is_sent_again_is_refused_at_once(tmp_path: Path, fault: str) -> None:
    async def body(stack: Stack) -> None:
        assert await stack.text("a") == f"{WORDS} "
        for _ in range(4):
            told = [outcome(stack.text("a", text="poison")) for _ in range(4)]
            assert await asyncio.gather(*told) == ["worker_died"] * 4
            assert await stack.text("a", text="x") == f"{WORDS} "
        assert restarts(stack) <= 2
        assert not stack.engine.recovery.health.knows("a")

    with_stack(tmp_path, {"a": {**SCRIPT, "die_on": "", fault: "poison"}}, body, max_restarts=2)


def test_a_model_that_serves_nobody_is_soon_left_alone(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert (await died(stack)).code == "worker_died"
        await until(lambda: restarts(stack) == 2)
        assert await outcome(stack.text("a", text="poison")) == "model_quarantined"
        assert stack.engine.recovery.health.quarantined()[0].crashes == 3

    with_stack(tmp_path, {"a": SCRIPT}, body, max_restarts=2)
