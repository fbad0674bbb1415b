"""The whole path below HTTP, on scripted models in real worker processes."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Caller
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.core.types import GenerationRequest, Message, Prompt, SamplingParams, Tool
from opta_lmx.engine.residency import Engine
from opta_lmx.scheduling.rules import Depth
from opta_lmx.serving.run import ModelRun, RunLimits
from opta_lmx.serving.service import Serving
from tests.support.sim import SimResolver, engine_options
from tests.support.waiting import until

Scripts = dict[str, dict[str, Any]]
LONG = "word " * 5000
NOBODY = Caller()


class Stack:
    """Engine and serving over scripted models."""

    def __init__(
        self,
        folder: Path,
        scripts: Scripts,
        slots: int,
        *,
        deadline_s: float = 10.0,
        **options: Any,
    ) -> None:
        self.resolver = SimResolver(folder, scripts, slots)
        clock, telemetry = SystemClock(), NullTelemetry()
        self.engine = Engine(self.resolver, engine_options(**options), clock, telemetry)
        self.limits = RunLimits(deadline_s)
        self._ports = (clock, telemetry)
        self.serving = Serving(self.engine, self.limits, clock, telemetry)

    def call(
        self, model: str, text: str = "hello", caller: Caller = NOBODY, **fields: Any
    ) -> ModelRun:
        """One run, read token by token."""
        request = GenerationRequest(model, Prompt(text=text), **fields)
        ticket = self.serving.gate(model, caller=caller)
        return ModelRun(ticket.runtime, ticket.numbers[0], request, self.limits, self._ports)

    async def text(self, model: str, **fields: Any) -> str:
        async with self.call(model, **fields) as run:
            await run.open()
            return b"".join([event.piece async for event in run]).decode()


def with_stack(
    folder: Path,
    scripts: Scripts,
    body: Callable[[Stack], Awaitable[None]],
    *,
    slots: int = 4,
    **options: Any,
) -> None:
    async def main() -> None:
        stack = Stack(folder, scripts, slots, **options)
        try:
            await body(stack)
        finally:
            await stack.engine.close()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_a_call_loads_the_model_once_and_answers(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        texts = await asyncio.gather(*(stack.text("a") for _ in range(5)))
        assert texts == ["one two three four "] * 5
        assert stack.resolver.loads == ["a"]
        run = stack.call("a", max_tokens=2)
        async with run:
            accepted = await run.open()
            assert accepted.prompt_tokens == len(b"hello")
            assert len([event async for event in run]) == 2
        assert (run.finish_reason, run.usage.completion_tokens) == ("length", 2)

    with_stack(tmp_path, {"a": {}}, body)


def test_sampling_is_request_then_model_then_ours(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        stack.resolver.sampling = SamplingParams(temperature=0.2, top_p=0.9)
        asked = SamplingParams(top_p=0.5, seed=3)
        sampling = json.loads(await stack.text("a", sampling=asked))
        chosen = {"temperature": 0.2, "top_p": 0.5, "top_k": 0, "min_p": 0.05, "seed": 3}
        neutral = {"frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1}
        assert sampling == {**chosen, **neutral}

    with_stack(tmp_path, {"a": {"echo_sampling": True}}, body)


def test_unknown_models_and_full_lines_are_typed(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        with pytest.raises(LmxError) as unknown:
            stack.call("nobody")
        assert unknown.value.kind is ErrorKind.MODEL_NOT_FOUND
        await stack.engine.load("a")
        places = [stack.call("a") for _ in range(1 + 2)]
        with pytest.raises(LmxError) as full:
            stack.call("a")
        assert full.value.kind is ErrorKind.RATE_LIMITED
        assert (full.value.retry_after or 0) >= 1
        for place in places:
            place.close()
        assert await stack.text("a")

    with_stack(tmp_path, {"a": {}}, body, slots=1, max_waiting=2)


def test_a_prompt_beyond_the_window_is_refused_with_its_numbers(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a", text="x" * 40) as run:
            with pytest.raises(LmxError, match="maximum context length is 32 tokens") as error:
                await run.open()
            assert error.value.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED
        async with stack.call("a", text="x" * 30) as run:
            await run.open()
            assert len([event async for event in run]) == 2
        assert run.finish_reason == "length"

    with_stack(tmp_path, {"a": {"context": 32}}, body)


def test_closing_a_running_call_frees_its_slot(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a") as run:
            await run.open()
            await anext(run)
            assert stack.engine.status()[0].running == 1
        took = await until(lambda: stack.engine.status()[0].running == 0)
        assert took < 1.0
        assert run.usage.completion_tokens == 1

    with_stack(tmp_path, {"a": {"reply": "word " * 500, "step_ms": 5}}, body)


def test_closing_a_waiting_call_leaves_the_line(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a") as first:
            await first.open()
            await anext(first)
            second = stack.call("a")
            await second.open()
            waiting = asyncio.ensure_future(anext(second))
            await until(lambda: stack.engine.status()[0].waiting == 1)
            waiting.cancel()
            await asyncio.wait({waiting})
            second.close()
            assert stack.engine.status()[0].waiting == 0
        await until(lambda: stack.engine.status()[0].running == 0)

    with_stack(tmp_path, {"a": {"reply": "word " * 500, "step_ms": 5}}, body, slots=1)


def test_who_waits_can_be_told_where_it_stands(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        runs = [stack.call("a", caller=Caller(client=name)) for name in ("one", "two", "two")]
        for run in runs:
            await run.open()
        await anext(runs[0])
        reading = [asyncio.ensure_future(anext(run)) for run in runs[1:]]
        await until(lambda: [run.position and run.position.ahead for run in runs] == [None, 0, 1])

        def depths() -> tuple[Depth, ...]:
            return stack.engine.queues()["a"]

        waits = [run.position.estimate_s for run in runs if run.position]
        assert 0 < waits[0] < waits[1]
        assert [(d.client, d.waiting, d.running) for d in depths()] == [
            ("one", 0, 1),
            ("two", 2, 0),
        ]
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)
        for run in runs:
            run.close()
        await until(lambda: not depths())

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 5}}, body, slots=1)


async def outcome(work: Coroutine[Any, Any, str]) -> str:
    try:
        return await work
    except LmxError as error:
        return error.code


def test_a_killed_worker_costs_what_it_ran_and_nobody_who_waits(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        slow = [asyncio.ensure_future(outcome(stack.text("a"))) for _ in range(6)]
        other = asyncio.ensure_future(stack.text("b"))
        await until(lambda: any(s.id == "a" and s.steps > 3 for s in stack.engine.status()))
        stack.resolver.scripts["a"] = {}
        pid = next(s.pid for s in stack.engine.status() if s.id == "a")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            told = sorted(await asyncio.gather(*slow))
        assert told == ["one two three four "] * 3 + ["worker_died"] * 3
        assert len((await other).split()) == 300
        assert [s.restarts for s in stack.engine.status()] == [1, 0]

    scripts: Scripts = {
        "a": {"reply": "word " * 5000, "step_ms": 5},
        "b": {"reply": "word " * 300, "step_ms": 5},
    }
    with_stack(tmp_path, scripts, body, slots=3)


def test_a_step_that_raises_ends_its_requests_with_a_typed_error(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert await outcome(stack.text("a")) == "worker_died"

    with_stack(tmp_path, {"a": {"raise_at_step": 3}}, body)


def test_a_model_that_keeps_crashing_is_quarantined(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        codes = [await outcome(stack.text("a")) for _ in range(5)]
        assert codes == [
            "worker_died",
            "worker_died",
            "worker_died",
            "model_quarantined",
            "model_quarantined",
        ]
        stack.resolver.scripts["a"] = {}
        assert await outcome(stack.text("a")) == "model_quarantined"
        assert await stack.engine.reset("a") == ("a", True)
        assert await stack.text("a")

    with_stack(tmp_path, {"a": {"die_at_step": 2}}, body, max_restarts=2)


def test_a_stalled_engine_is_killed(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert await outcome(stack.text("a")) == "worker_died"

    with_stack(tmp_path, {"a": {"hang_at_step": 2}}, body, stall_floor_s=0.3)


def test_a_template_that_never_ends_quarantines_the_model(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        codes = [await outcome(stack.text("a")) for _ in range(3)]
        assert codes == ["prompt_too_slow", "prompt_too_slow", "model_quarantined"]
        (kept_out,) = stack.engine.recovery.health.quarantined()
        assert (kept_out.code, kept_out.crashes) == ("template_endless", 2)
        assert await stack.text("b")
        assert await stack.engine.reset("a") == ("a", True)
        stack.resolver.scripts["a"] = {}
        assert await stack.text("a")

    options: dict[str, Any] = {"prepare_timeout_s": 0.3, "max_restarts": 1}
    with_stack(tmp_path, {"a": {"hang_template": True}, "b": {}}, body, **options)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(messages=(Message("user", "x" * 70_000),)),
        Prompt(messages=(Message("user", "a"), Message("assistant", "b")) * 33),
        Prompt(messages=(Message("user", "a"),), tools=(Tool("f", "x" * 70_000),)),
        Prompt(messages=(Message("user", "a"),), template_kwargs={"n": 10**9}),
        Prompt(text="x" * 70_000),
    ],
    ids=["long", "many turns", "long tools", "arguments of its own", "long text"],
)
def test_a_prompt_that_takes_too_long_holds_nothing_against_the_model(
    tmp_path: Path, prompt: Prompt
) -> None:
    async def body(stack: Stack) -> None:
        runtime = await stack.engine.load("a")
        with pytest.raises(LmxError) as told:
            await runtime.prepare(1, prompt)
        expected = (ErrorKind.INVALID_REQUEST, "prompt_too_slow")
        assert (told.value.kind, told.value.code) == expected
        assert told.value.param == ("prompt" if prompt.text else "messages")
        stack.resolver.scripts["a"] = {}
        await until(lambda: runtime.restarts == 1)
        assert await stack.text("a")
        assert not stack.engine.recovery.health.knows("a")

    options: dict[str, Any] = {"prepare_timeout_s": 0.2, "max_restarts": 0}
    with_stack(tmp_path, {"a": {"hang_template": True, "context": 200_000}}, body, **options)


@pytest.mark.parametrize("words", ["METAL: Insufficient Memory (OutOfMemory)", "broken"])
def test_only_what_is_the_models_own_fault_counts(tmp_path: Path, words: str) -> None:
    async def body(stack: Stack) -> None:
        health, short = stack.engine.recovery.health, words != "broken"
        assert await outcome(stack.text("a")) == "worker_died"
        await until(lambda: stack.engine.status()[0].state in ("ready", "quarantined"))
        told = [(one.code, words in one.message) for one in health.quarantined()]
        assert told == ([] if short else [("worker_died", True)])
        assert health.knows("a") is not short

    script = {"raise_at_step": 2, "raise_words": words}
    with_stack(tmp_path, {"a": script}, body, max_restarts=0)


def test_a_prompt_in_preparation_is_held_to_its_own_limit(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert await outcome(stack.text("a")) == "prompt_too_slow"
        assert stack.engine.status()[0].restarts <= 1

    options: dict[str, Any] = {"prepare_timeout_s": 1.0, "stall_floor_s": 0.1}
    with_stack(tmp_path, {"a": {"hang_template": True}}, body, **options)


def test_a_model_that_cannot_load_says_why_and_may_be_tried_again(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a") as run:
            with pytest.raises(LmxError, match="bad weights") as error:
                await run.open()
            assert error.value.code == "load_failed"
        await until(lambda: not stack.engine.status())
        stack.resolver.scripts["a"] = {}
        assert await stack.text("a")

    with_stack(tmp_path, {"a": {"fail_load": "bad weights"}}, body)


def test_unloading_ends_running_calls_with_a_typed_error(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        call = asyncio.ensure_future(outcome(stack.text("a")))
        await until(lambda: any(s.steps > 1 for s in stack.engine.status()))
        await stack.engine.unload("a")
        assert await call == "model_unloaded"
        assert stack.engine.status() == []

    with_stack(tmp_path, {"a": {"reply": "word " * 5000, "step_ms": 5}}, body)


def test_a_draining_server_refuses_new_calls(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        stack.serving.draining = True
        with pytest.raises(LmxError) as error:
            stack.call("a")
        assert error.value.kind is ErrorKind.UNAVAILABLE

    with_stack(tmp_path, {"a": {}}, body)
