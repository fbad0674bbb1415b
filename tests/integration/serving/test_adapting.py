"""Fewer requests run while a model's steps are slow, on real workers; none is lost for it."""

import asyncio
from pathlib import Path
from typing import Any

from tests.integration.serving.test_sim_serving import Stack, with_stack

SLOTS = 8
SLOW_FROM, SLOW_TO, END = 180, 270, 640
"""Steps; the first is in the midst of answers, at lengths that were seen before."""
WORDS = 120
REPLY = " ".join(f"w{number}" for number in range(WORDS))
SCRIPT: dict[str, Any] = {
    "reply": REPLY,
    "step_ms": 2,
    "slow_from": SLOW_FROM,
    "slow_to": SLOW_TO,
    "resumes": "all",
}


class Watch:
    """The limit and the rows after each step of a model's worker."""

    def __init__(self, stack: Stack) -> None:
        self.seen: dict[int, tuple[int, int]] = {}
        runtime = stack.engine.find("a")
        assert runtime is not None
        self._runtime, seat = runtime, runtime.seat
        usual = seat.stepped

        def noting(step: Any) -> bool:
            more = usual(step)
            self.seen[step.n] = (seat.limit, runtime.line.running)
            return more

        seat.stepped = noting  # type: ignore[method-assign]

    def limit(self, step: int) -> int:
        return self.seen[step][0]


async def kept_busy(stack: Stack, until_step: int) -> tuple[Watch, list[str]]:
    """Have more requests in flight than slots, until so many steps were made."""
    await stack.engine.load("a")
    watch, answers = Watch(stack), list[str]()

    async def one() -> None:
        while max(watch.seen, default=0) < until_step:
            answers.append(await stack.text("a"))

    await asyncio.gather(*(one() for _ in range(SLOTS + 4)))
    return watch, answers


def test_the_limit_falls_while_steps_are_slow_and_comes_back(tmp_path: Path) -> None:
    async def body(stack: Stack) -> None:
        watch, answers = await kept_busy(stack, END)
        before = watch.limit(SLOW_FROM - 1)
        assert before == SLOTS
        assert watch.limit(SLOW_FROM + 19) < before
        slow = [watch.seen[step] for step in range(SLOW_FROM, SLOW_TO)]
        assert min(limit for limit, _ in slow) <= SLOTS // 2
        # Rows that ran went on to their ends, and none came for those that were too many.
        assert min(rows for _, rows in slow) < SLOTS
        assert watch.limit(END) >= 0.9 * before
        assert max(rows for step, (_, rows) in watch.seen.items() if step > SLOW_TO) == SLOTS
        assert set(answers) == {REPLY + " "}
        status = stack.engine.status()[0]
        assert (status.running, status.waiting, status.restarts) == (0, 0, 0)
        assert (status.slots, status.limit) == (SLOTS, watch.limit(max(watch.seen)))

    with_stack(tmp_path, {"a": SCRIPT}, body, slots=SLOTS, max_waiting=32)
