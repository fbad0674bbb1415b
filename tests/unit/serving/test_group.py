"""Several answers as one stream: what ends one ends them all, and nothing is left unseen."""

import asyncio
import gc
from typing import Any, cast

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import TokenEvent
from opta_lmx.serving.group import RunGroup
from opta_lmx.serving.run import ModelRun


class Run:
    """The tokens of one answer, then its error, if any."""

    created_s = 5

    def __init__(self, index: int, count: int = 0, error: LmxError | None = None) -> None:
        self._left = [TokenEvent(index, n, b"x") for n in range(count)]
        self._error = error
        self.stopped = False
        self.closed = 0

    def __aiter__(self) -> "Run":
        return self

    async def __anext__(self) -> TokenEvent:
        await asyncio.sleep(0)
        if self._left:
            return self._left.pop(0)
        raise self._error or StopAsyncIteration

    def close(self) -> None:
        self.closed += 1


def group(*runs: Run) -> RunGroup:
    return RunGroup(cast("list[ModelRun]", [*runs]))


def test_tokens_of_all_runs_come_until_the_last_has_ended() -> None:
    async def main() -> list[tuple[int, int]]:
        return [(token.index, token.id) async for token in group(Run(0, 3), Run(1, 1))]

    found = asyncio.run(main())
    assert sorted(found) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_a_stopped_answer_says_no_more_while_the_others_go_on() -> None:
    async def main() -> list[tuple[int, int]]:
        runs = (Run(0, 3), Run(1, 3))
        both = group(*runs)
        first = await anext(both)
        both.stop(first.index)
        assert (runs[first.index].stopped, runs[first.index].closed) == (True, 1)
        return [(token.index - first.index, token.id) async for token in both]

    assert asyncio.run(main()) == [(1, 0), (1, 1), (1, 2)]


def test_runs_that_fail_together_leave_no_failure_that_nobody_looked_at() -> None:
    complaints: list[dict[str, Any]] = []

    async def fail() -> None:
        runs = [Run(n, error=LmxError(ErrorKind.INTERNAL, "worker died")) for n in range(3)]
        dying = group(*runs)
        with pytest.raises(LmxError, match="worker died"):
            await anext(dying)
        dying.close()
        assert [run.closed for run in runs] == [1, 1, 1]

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        await fail()
        gc.collect()

    asyncio.run(main())
    assert complaints == []
