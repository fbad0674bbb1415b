"""Several answers to one request, and what a whole call is told, on scripted models."""

from pathlib import Path
from typing import Any

import pytest

from opta_lmx.codec.deltas import CallStart, TextDelta, collect
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, Message, Prompt, Tool, Usage
from opta_lmx.serving.answering import AnswerEvent, Answering, Ended, Spoke
from tests.integration.serving.test_sim_serving import LONG, Stack, with_stack
from tests.support.waiting import until

CALL = '<tool_call>{"name": "look", "arguments": {"at": "%s"}}</tool_call>'
TOOLS = (Tool("look", parameters={"type": "object"}),)


def ask(stack: Stack, model: str, **fields: Any) -> Answering:
    tools = fields.pop("tools", ())
    prompt = Prompt(messages=(Message("user", "hi"),), tools=tools)
    request = GenerationRequest(model, prompt, **fields)
    return stack.serving.run(stack.serving.gate(model, request.n), request)


async def events(call: Answering) -> list[AnswerEvent]:
    await call.open()
    return [event async for some in call for event in some]


def texts(told: list[AnswerEvent], index: int = 0) -> str:
    return collect(e.delta for e in told if isinstance(e, Spoke) and e.index == index).text


def test_answers_come_side_by_side(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        call = ask(stack, "a", n=3, max_tokens=20)
        told = await events(call)
        spoken = [event.index for event in told if isinstance(event, Spoke)]
        assert set(spoken) == {0, 1, 2}
        assert spoken != sorted(spoken)
        assert [texts(told, index) for index in range(3)] == ["one two three "] * 3
        assert [e.finish for e in told if isinstance(e, Ended)] == ["stop"] * 3
        # Three words and an end each; the prompt is counted once.
        assert call.usage == Usage(len("user: hi\n"), 12)
        call.close()

    with_stack(tmp_path, {"a": {"reply": "one two three", "step_ms": 1}}, body)


def test_answers_are_admitted_together_or_not_at_all(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        await stack.engine.load("a")
        held = ask(stack, "a", n=8)
        with pytest.raises(LmxError) as full:
            stack.serving.gate("a", 3)
        assert full.value.kind is ErrorKind.RATE_LIMITED
        with pytest.raises(LmxError) as never:
            stack.serving.gate("a", 99)
        assert (never.value.kind, never.value.param) == (ErrorKind.INVALID_REQUEST, "n")
        assert "99 answers, more than the 10" in never.value.message
        held.close()
        stack.serving.gate("a", 3).give_back()
        (status,) = stack.engine.status()
        assert (status.waiting, status.running) == (0, 0)

    with_stack(tmp_path, {"a": {}}, body, slots=2, max_waiting=8)


def test_closing_frees_every_answer(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        call = ask(stack, "a", n=3)
        await call.open()
        await call.__anext__()
        call.close()
        await until(lambda: stack.engine.status()[0].running == 0)

    with_stack(tmp_path, {"a": {"reply": LONG, "step_ms": 1}}, body)


def test_a_dead_worker_ends_all_answers_with_one_error(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        call = ask(stack, "a", n=2)
        with pytest.raises(LmxError) as died:
            await events(call)
        assert died.value.code == "worker_died"
        call.close()

    with_stack(tmp_path, {"a": {"reply": LONG, "die_at_step": 5}}, body)


def test_a_stop_string_ends_its_answer_and_frees_its_slot(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        call = ask(stack, "a", n=2, stop=("word word word",))
        told = await events(call)
        ends = [event for event in told if isinstance(event, Ended)]
        assert [(end.finish, end.stop_sequence) for end in ends] == [("stop", "word word word")] * 2
        assert call.usage.completion_tokens < 20
        await until(lambda: stack.engine.status()[0].running == 0)
        call.close()

    with_stack(tmp_path, {"a": {"reply": LONG}}, body)


def test_one_call_at_a_time_ends_before_the_second(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        for parallel, calls in ((True, 2), (False, 1)):
            told = await events(ask(stack, "a", tools=TOOLS, parallel_tool_calls=parallel))
            starts = [e for e in told if isinstance(e, Spoke) and isinstance(e.delta, CallStart)]
            assert len(starts) == calls
            ended = told[-1]
            assert isinstance(ended, Ended)
            assert ended.finish == "tool_calls"

    with_stack(tmp_path, {"a": {"reply": f"{CALL % 'a'} {CALL % 'b'} {LONG}"}}, body)


@pytest.mark.parametrize("lacks", [(), ("grammar",)])
def test_an_engine_without_grammars_is_given_none(tmp_path: Path, lacks: tuple[str, ...]) -> None:
    async def body(stack: Stack) -> None:
        call = ask(stack, "a", tools=TOOLS, parallel_tool_calls=False, max_tokens=900)
        told = texts(await events(call))
        assert ('"grammar":null' in told) is bool(lacks)
        call.close()

    script = {"echo_submit": True, "lacks": [*lacks], "tool_dialect": "hermes"}
    with_stack(tmp_path, {"a": script}, body)


def test_tokens_of_the_text_come_once_each_with_their_text(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        told = await events(ask(stack, "a", top_logprobs=1, stop=("four",)))
        spoken = [event for event in told if isinstance(event, Spoke)]
        assert all(isinstance(event.delta, TextDelta) for event in spoken)
        pieces = b"".join(token.piece for event in spoken for token in event.tokens)
        assert pieces.decode() == texts(told) == "one two three "
        assert all(token.logprob == -0.1 for event in spoken for token in event.tokens)

    with_stack(tmp_path, {"a": {"reply": "one two three four five"}}, body)
