"""Several prompts as one call: numbered in order, ended together, freed together."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from opta_lmx.codec.deltas import TextDelta
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Budgets, Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.core.types import Accepted, GenerationRequest, Prompt, Speech, Usage
from opta_lmx.serving.answering import AnswerEvent, Answering, Ended, Spoke
from opta_lmx.serving.budgeting import Account, Budgeting
from opta_lmx.serving.prompts import PromptBatch

BOOKS = Budgeting(SystemClock(), NullTelemetry())


class Part:
    """The answers to one prompt: steps are events, an error, or something to wait for."""

    created_s = 5
    request = GenerationRequest("m", Prompt(text="p"), max_tokens=16)
    ran = False

    def __init__(self, tokens: int, *steps: Any) -> None:
        self._steps = list(steps)
        self._tokens = tokens
        self.opened = False
        self.closed = 0

    async def open(self) -> Accepted:
        if self._tokens < 0:
            raise LmxError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, "too long")
        self.opened = True
        return Accepted("m", self._tokens, 16, Speech(), fingerprint="fp")

    def __aiter__(self) -> "Part":
        return self

    async def __anext__(self) -> list[AnswerEvent]:
        if not self._steps:
            raise StopAsyncIteration
        step = self._steps.pop(0)
        if isinstance(step, asyncio.Event):
            await step.wait()
            return await self.__anext__()
        if isinstance(step, LmxError):
            raise step
        return [step]

    @property
    def usage(self) -> Usage:
        return Usage(self._tokens, 2, 1, 0)

    def close(self) -> None:
        self.closed += 1


def batch(
    parts: list[Part], each: int = 1, account: Account | None = None, **options: Any
) -> PromptBatch:
    account = account or BOOKS.account(Principal())
    return PromptBatch(cast("list[Answering]", parts), each, account, **options)


def say(text: str, index: int = 0) -> Spoke:
    return Spoke(index, TextDelta(text))


def run(work: Callable[[], Any]) -> Any:
    """Run a coroutine; anything the loop complains of is a failure."""
    complaints: list[Any] = []

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
        return await work()

    result = asyncio.run(main())
    assert complaints == []
    return result


def test_answers_are_numbered_prompt_by_prompt() -> None:
    async def work() -> list[AnswerEvent]:
        parts = [
            Part(1, say("a"), say("b", 1), Ended(0, "stop"), Ended(1, "length")),
            Part(2, say("c"), say("d", 1), Ended(1, "stop"), Ended(0, "stop")),
        ]
        made = batch(parts, each=2)
        accepted = await made.open()
        assert accepted.prompt_tokens == 3
        assert [one.prompt_tokens for one in made.accepted] == [1, 2]
        return [event async for events in made for event in events]

    events = run(work)
    assert {event.index: event.delta.text for event in events if isinstance(event, Spoke)} == {
        0: "a",
        1: "b",
        2: "c",
        3: "d",
    }
    ends = {event.index: event.finish for event in events if isinstance(event, Ended)}
    assert ends == {0: "stop", 1: "length", 2: "stop", 3: "stop"}


def test_a_slow_prompt_holds_up_no_other() -> None:
    async def work() -> list[str]:
        gate = asyncio.Event()
        made = batch([Part(1, gate, say("late"), Ended(0, "stop")), Part(1, say("early"))])
        await made.open()
        order: list[str] = []
        async for events in made:
            order += [event.delta.text for event in events if isinstance(event, Spoke)]
            gate.set()
        return order

    assert run(work) == ["early", "late"]


def test_an_error_of_one_prompt_ends_all() -> None:
    async def work() -> list[Part]:
        never = asyncio.Event()
        gone = LmxError(ErrorKind.INTERNAL, "gone")
        parts = [Part(1, never), Part(1, gone), Part(1, gone.again())]
        made = batch(parts)
        await made.open()
        with pytest.raises(LmxError, match="gone"):
            async for _ in made:
                pass
        made.close()
        made.close()
        return parts

    assert all(part.closed for part in run(work))


def test_the_first_prompt_at_fault_is_told() -> None:
    async def work() -> list[Part]:
        parts = [Part(1), Part(-1), Part(1)]
        made = batch(parts)
        with pytest.raises(LmxError, match="too long"):
            await made.open()
        made.close()
        return parts

    parts = run(work)
    assert [part.opened for part in parts] == [True, False, False]
    assert all(part.closed for part in parts)


def test_nothing_runs_where_nothing_is_wanted() -> None:
    async def work() -> list[AnswerEvent]:
        parts = [Part(1, say("never")), Part(1, say("never"))]
        made = batch(parts, each=2, generate=False)
        await made.open()
        return [event async for events in made for event in events]

    assert run(work) == [Ended(place, "length") for place in range(4)]


BOUNDED = Principal(
    key="bounded", budgets=Budgets(prompt_tokens=7, prompt_tokens_per_minute=9, max_tokens=16)
)


@pytest.mark.parametrize("ran", [False, True])
def test_all_prompts_are_taken_together_and_given_back_unless_one_ran(ran: bool) -> None:
    owner = msgspec.structs.replace(BOUNDED, key=f"bounded-{ran}")

    async def work() -> int:
        parts = [Part(3), Part(4)]
        made = batch(parts, account=BOOKS.account(owner))
        await made.open()
        parts[1].ran = ran
        made.close()
        made.close()
        left = BOOKS.state(owner)
        assert left is not None
        return left.remaining

    assert run(work) == (2 if ran else 9)


def test_prompts_that_are_too_much_together_are_refused_with_their_sum() -> None:
    made = batch([Part(4), Part(4)], account=BOOKS.account(BOUNDED))
    with pytest.raises(LmxError, match="8 tokens; this key allows 7 a request") as refused:
        run(made.open)
    assert refused.value.param == "prompt"


def test_an_answer_beyond_the_keys_cap_is_refused_before_any_prompt_is_made() -> None:
    parts = [Part(1)]
    parts[0].request = msgspec.structs.replace(Part.request, max_tokens=17)
    with pytest.raises(LmxError, match="17 tokens; this key allows 16"):
        run(batch(parts, account=BOOKS.account(BOUNDED)).open)
    assert not parts[0].opened


def test_usage_is_the_sum() -> None:
    made = batch([Part(3), Part(4)])
    assert made.usage == Usage(7, 4, 2, 0)
