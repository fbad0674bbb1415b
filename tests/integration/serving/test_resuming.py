"""Answers that outlive their worker: nothing lost, nothing said twice, and once only."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.codec.deltas import collect
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import GenerationRequest, Message, Prompt, SamplingParams, Tool
from opta_lmx.serving.answering import AnswerEvent, Answering, Ended, Spoke
from tests.integration.serving.test_sim_serving import LONG, Stack, outcome, with_stack
from tests.support.waiting import until

CALL = '<tool_call>{"name": "look", "arguments": {"at": "häuser → überall"}}</tool_call>'
TOOLS = (Tool("look", parameters={"type": "object"}),)
RESUMING = {"resumes": "all"}


def kill(stack: Stack, model: str = "a") -> None:
    pid = next(status.pid for status in stack.engine.status() if status.id == model)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def replaced(stack: Stack, dying: dict[str, Any]) -> None:
    """Load the model with a fault that its next worker has not."""
    script = stack.resolver.scripts["a"]
    stack.resolver.scripts["a"] = {**script, **dying}
    await stack.engine.load("a")
    stack.resolver.scripts["a"] = script


def ask(stack: Stack, **fields: Any) -> Answering:
    prompt = Prompt(messages=(Message("user", "hi"),), tools=fields.pop("tools", ()))
    request = GenerationRequest("a", prompt, **fields)
    return stack.serving.run(stack.serving.gate("a", request.n), request)


def told(events: list[AnswerEvent]) -> list[Any]:
    """Each answer's whole message and its end."""
    found: list[Any] = []
    for index in sorted({event.index for event in events}):
        own = [event for event in events if event.index == index]
        said = collect(event.delta for event in own if isinstance(event, Spoke))
        calls = [(call.name, call.arguments) for call in said.calls]
        ends = [(end.finish, end.stop_sequence) for end in own if isinstance(end, Ended)]
        found.append((said.text, said.reasoning, calls, ends))
    return found


ANSWERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"reply": "zwölf Boxkämpfer → überall €", "by_bytes": True}, {}),
    ({"reply": "one two STOP HERE three", "by_bytes": True}, {"stop": ("STOP HERE",)}),
    ({"reply": f"first {CALL} then", "by_bytes": True}, {"tools": TOOLS}),
    ({"reply": "<think>hm so</think>done well", "by_bytes": True, "reasoning": "think"}, {}),
    ({"reply": "a b c d e f g h"}, {"n": 3, "max_tokens": 6}),
    ({"reply": "a b c d e f g h"}, {"top_logprobs": 1}),
]


@pytest.mark.parametrize(("script", "fields"), ANSWERS)
def test_an_interrupted_answer_is_the_same_answer(
    tmp_path: Path, script: dict[str, Any], fields: dict[str, Any]
) -> None:
    async def answer(stack: Stack) -> tuple[list[Any], Any]:
        call = ask(stack, **fields)
        await call.open()
        events = [event async for some in call for event in some]
        call.close()
        await until(lambda: stack.engine.status()[0].running == 0)
        return told(events), call.usage

    async def body(stack: Stack) -> None:
        whole = await answer(stack)
        for step in (2, 4, 5, 8, 10, 13):
            await stack.engine.unload("a")
            await replaced(stack, {"die_at_step": step})
            assert await answer(stack) == whole
            assert stack.engine.status()[0].restarts <= 1

    with_stack(tmp_path, {"a": {**script, **RESUMING}}, body, max_restarts=6)


def test_no_token_is_lost_or_said_twice(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a", max_tokens=400) as run:
            await run.open()
            ids = [(await anext(run)).id for _ in range(5)]
            kill(stack)
            ids += [event.id async for event in run]
        assert ids == list(range(1, 401))
        assert (run.finish_reason, run.usage.completion_tokens) == ("length", 400)

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 1, **RESUMING}}, body)


def test_the_prompt_is_prepared_once(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await replaced(stack, {"die_at_step": 3, "hang_template": False})
        stack.resolver.scripts["a"]["hang_template"] = True
        assert await stack.text("a") == "one two three four "

    with_stack(tmp_path, {"a": {**RESUMING}}, body)


def test_what_has_said_nothing_yet_starts_over(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await replaced(stack, {"die_at_step": 1})
        assert await stack.text("a", sampling=SamplingParams(seed=1)) == "one two three four "

    with_stack(tmp_path, {"a": {}}, body)


def test_a_request_in_two_deaths_is_failed(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a") as run:
            await run.open()
            with pytest.raises(LmxError) as died:
                [event.id async for event in run]
        assert died.value.code == "worker_died"
        assert run.usage.completion_tokens == 2
        await until(lambda: stack.engine.status()[0].restarts == 2)
        assert stack.engine.status()[0].running == 0

    with_stack(tmp_path, {"a": {"die_at_step": 2, **RESUMING}}, body)


def test_a_prompt_that_kills_two_workers_is_failed(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        call = asyncio.ensure_future(outcome(stack.text("a")))
        for restarts in (0, 1):
            await until(
                lambda restarts=restarts: (
                    [(s.restarts, s.state) for s in stack.engine.status()] == [(restarts, "ready")]
                )
            )
            await asyncio.sleep(0)
            kill(stack)
        assert await call == "worker_died"

    with_stack(tmp_path, {"a": {"prepare_ms": 5000}}, body)


def test_a_prompt_in_preparation_survives(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await replaced(stack, {"prepare_ms": 20_000})
        call = asyncio.ensure_future(stack.text("a"))
        await until(lambda: stack.engine.status()[0].waiting == 1)
        kill(stack)
        assert await call == "one two three four "

    with_stack(tmp_path, {"a": {}}, body)


@pytest.mark.parametrize("resumes", ["unseeded", "none", "all"])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("seed", [None, 7])
def test_who_goes_on_is_what_the_engine_permits(
    tmp_path: Path, resumes: str, seed: int | None, constrained: bool
) -> None:
    async def body(stack: Stack) -> None:
        await replaced(stack, {"die_at_step": 3})
        fields: dict[str, Any] = {"sampling": SamplingParams(seed=seed)}
        if constrained:
            fields |= {"tools": TOOLS, "parallel_tool_calls": False}
        call = ask(stack, **fields)
        await call.open()
        goes_on = resumes == "all" or (resumes == "unseeded" and seed is None and not constrained)
        if goes_on:
            events = [event async for some in call for event in some]
            assert told(events)[0][0] == "one two three four "
        else:
            with pytest.raises(LmxError, match="stopped unexpectedly"):
                [event async for some in call for event in some]
        call.close()

    with_stack(tmp_path, {"a": {"resumes": resumes}}, body)


def test_everybody_keeps_the_place_they_had(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        ended: list[str] = []

        async def one(name: str) -> None:
            assert await stack.text("a", text=name) == "one two three four "
            ended.append(name)

        await replaced(stack, {"reply": "one two three four", "step_ms": 40})
        calls: list[asyncio.Future[None]] = []
        for number, name in enumerate("xyz"):
            calls.append(asyncio.ensure_future(one(name)))
            await until(
                lambda number=number: (
                    stack.engine.status()[0].running + stack.engine.status()[0].waiting > number
                )
            )
        await until(lambda: stack.engine.status()[0].steps >= 2)
        kill(stack)
        await asyncio.gather(*calls)
        assert ended == ["x", "y", "z"]

    with_stack(tmp_path, {"a": {**RESUMING}}, body, slots=1)


def test_the_deadline_holds_for_who_waits_through_a_restart(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await stack.engine.load("a")
        running = asyncio.ensure_future(outcome(stack.text("a")))
        # It must have said something: what has not is not told of the death, but starts over.
        await until(lambda: stack.engine.status()[0].steps > 0)
        waiting = asyncio.ensure_future(outcome(stack.text("a")))
        await until(lambda: stack.engine.status()[0].waiting == 1)
        stack.resolver.scripts["a"] = {"load_ms": 30_000}
        kill(stack)
        assert await running == "worker_died"
        assert await waiting == "queue_timeout"
        assert stack.engine.status()[0].waiting == 0

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 5}}, body, slots=1, deadline_s=1.0)


def test_a_model_that_does_not_come_back_tells_all_who_wait_for_it(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        calls = [asyncio.ensure_future(outcome(stack.text("a"))) for _ in range(3)]
        await until(lambda: stack.engine.status() and stack.engine.status()[0].waiting == 2)
        stack.resolver.scripts["a"] = {"fail_load": "bad weights"}
        kill(stack)
        assert set(await asyncio.gather(*calls)) == {"load_failed"}

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 5, **RESUMING}}, body, slots=1)


def test_who_leaves_while_the_model_is_away_is_not_resumed(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        run = stack.call("a")
        await run.open()
        await anext(run)
        stack.resolver.scripts["a"] = {**RESUMING, "load_ms": 300}
        kill(stack)
        await until(lambda: stack.engine.status()[0].state == "restarting")
        assert stack.engine.status()[0].waiting == 1
        run.close()
        assert (stack.engine.status()[0].waiting, stack.engine.status()[0].running) == (0, 0)
        await until(lambda: stack.engine.status()[0].state == "ready")
        assert stack.engine.status()[0].steps == 0

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 5, **RESUMING}}, body)


def test_an_unload_ends_who_waits_to_go_on(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        call = asyncio.ensure_future(outcome(stack.text("a")))
        await until(lambda: stack.engine.status() and stack.engine.status()[0].steps > 1)
        stack.resolver.scripts["a"] = {"load_ms": 30_000}
        kill(stack)
        await until(lambda: stack.engine.status()[0].state == "restarting")
        await stack.engine.unload("a")
        assert await call == "model_unloaded"

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 5, **RESUMING}}, body)


def test_one_row_that_fails_costs_no_other(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        told = await asyncio.gather(*(outcome(stack.text("a")) for _ in range(3)))
        assert sorted(told) == ["one two three four "] * 2 + ["step_failed"]
        assert stack.engine.status()[0].restarts == 0

    with_stack(tmp_path, {"a": {"fault_at_step": 2, "step_ms": 20}}, body)
