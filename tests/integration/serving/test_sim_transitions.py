"""Calls that meet a model in the middle of a change: dying, restarting, unloading, loading."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.runtime import ModelRuntime
from tests.integration.serving.test_sim_serving import LONG, Stack, outcome, with_stack
from tests.support.waiting import until


def _kill(stack: Stack, model: str = "a") -> None:
    pid = next(status.pid for status in stack.engine.status() if status.id == model)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _state(stack: Stack) -> str:
    statuses = stack.engine.status()
    return statuses[0].state if statuses else "gone"


def test_a_turn_taken_while_restarting_is_granted_by_the_new_worker(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a") as run:
            await run.open()
            _kill(stack)
            await until(lambda: _state(stack) == "restarting")
            text = b"".join([event.piece async for event in run]).decode()
        assert text == "one two three four "

    with_stack(tmp_path, {"a": {"load_ms": 200}}, body)


def test_an_unload_tells_those_who_wait_in_line(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        calls = [asyncio.ensure_future(outcome(stack.text("a"))) for _ in range(4)]
        await until(lambda: stack.engine.status() and stack.engine.status()[0].waiting == 3)
        opened = stack.call("a")
        await opened.open()
        await stack.engine.unload("a")
        async with asyncio.timeout(2):
            assert set(await asyncio.gather(*calls)) == {"model_unloaded"}
            with pytest.raises(LmxError) as error:
                await anext(opened)
        assert error.value.code == "model_unloaded"
        opened.close()

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 5}}, body, slots=1)


def test_many_slow_prompts_do_not_look_like_an_endless_template(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        texts = await asyncio.gather(*(stack.text("a") for _ in range(8)))
        assert texts == ["one two three four "] * 8
        assert _state(stack) == "ready"

    script = {"prepare_ms": 150}
    with_stack(tmp_path, {"a": script}, body, slots=8, prepare_timeout_s=0.6)


def test_the_prompt_of_a_client_that_left_is_never_rendered(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await stack.engine.load("a")
        gone = [asyncio.ensure_future(outcome(stack.text("a"))) for _ in range(6)]
        await until(lambda: stack.engine.status()[0].waiting == 6)
        await asyncio.sleep(0)
        for call in gone:
            call.cancel()
        await asyncio.wait(gone)
        began = asyncio.get_running_loop().time()
        assert await stack.text("a")
        assert asyncio.get_running_loop().time() - began < 1.5
        assert stack.engine.status()[0].waiting == 0

    with_stack(tmp_path, {"a": {"prepare_ms": 500}}, body, slots=8)


def test_a_prompt_beyond_any_doubt_too_long_is_refused_unread(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        async with stack.call("a", text="x" * 1_000_000) as run:
            with pytest.raises(LmxError, match="maximum context length is 64 tokens") as error:
                await run.open()
        assert error.value.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED
        assert "at least 7813 tokens" in error.value.message

    with_stack(tmp_path, {"a": {"context": 64, "hang_template": True}}, body)


def test_a_worker_killed_while_it_reloads_counts_as_a_crash(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await stack.engine.load("a")
        first = stack.engine.status()[0].pid
        stack.resolver.scripts["a"] = {"load_ms": 60_000}
        _kill(stack)
        await until(lambda: stack.engine.status()[0].pid not in (first, None))
        stack.resolver.scripts["a"] = {}
        _kill(stack)
        await until(lambda: _state(stack) == "ready")
        assert stack.engine.status()[0].restarts == 2
        assert await stack.text("a")

    with_stack(tmp_path, {"a": {}}, body)


def test_everyone_who_waits_for_a_load_gets_its_error(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        loads = [asyncio.ensure_future(stack.engine.load("a")) for _ in range(5)]
        done, _ = await asyncio.wait(loads)
        errors = [task.exception() for task in done]
        assert {error.code for error in errors if isinstance(error, LmxError)} == {"load_failed"}
        assert len(errors) == 5

    with_stack(tmp_path, {"a": {"fail_load": "bad weights", "load_ms": 100}}, body)


def test_a_load_asked_for_during_an_unload_is_served(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await stack.engine.load("a")
        unload = asyncio.ensure_future(stack.engine.unload("a"))
        await asyncio.sleep(0)
        assert await stack.text("a")
        await unload
        assert _state(stack) == "ready"

    with_stack(tmp_path, {"a": {}}, body)


def test_the_deadline_counts_from_arrival_loading_included(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert await outcome(stack.text("a")) == "queue_timeout"

    with_stack(tmp_path, {"a": {"load_ms": 5000}}, body, deadline_s=0.3)


def test_quarantine_is_told_to_all_with_a_long_wait(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await stack.engine.load("a")
        calls = [asyncio.ensure_future(outcome(stack.text("a"))) for _ in range(3)]
        done, _ = await asyncio.wait(calls)
        told = sorted(task.result() for task in done)
        assert told == ["model_quarantined", "model_quarantined", "prompt_too_slow"]
        await until(lambda: _state(stack) == "quarantined")
        with pytest.raises(LmxError) as error:
            stack.call("a")
        assert error.value.retry_after == 60

    options: dict[str, Any] = {"prepare_timeout_s": 0.4, "max_restarts": 0}
    with_stack(tmp_path, {"a": {"hang_template": True}}, body, **options)


def test_the_log_of_a_crashed_worker_survives_its_restart(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        assert await outcome(stack.text("a")) == "worker_died"
        await until(lambda: _state(stack) == "ready")
        assert "scripted step failure" in (tmp_path / "a.log.1").read_text()

    with_stack(tmp_path, {"a": {"raise_at_step": 2}}, body)


def test_a_model_asked_for_while_it_ends_is_loaded_when_its_worker_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the old worker writes must be whole before the new one looks for it."""

    async def body(stack: Stack) -> None:
        await stack.engine.load("a")
        may_end, end = asyncio.Event(), ModelRuntime._part

        async def slowly(runtime: ModelRuntime) -> None:
            await may_end.wait()
            await end(runtime)

        monkeypatch.setattr(ModelRuntime, "_part", slowly)
        ending = asyncio.ensure_future(stack.engine.unload("a"))
        await asyncio.sleep(0)
        answer = asyncio.ensure_future(stack.text("a"))
        await until(lambda: _state(stack) == "loading")
        for _ in range(50):
            await asyncio.sleep(0)
        assert stack.resolver.loads == ["a"]
        may_end.set()
        assert await answer
        await ending
        assert stack.resolver.loads == ["a", "a"]

    with_stack(tmp_path, {"a": {}}, body)
