"""One call with several prompts: the answers to each, read as one stream of events."""

import asyncio
from collections.abc import Sequence

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Accepted, Usage
from opta_lmx.serving.answering import AnswerEvent, Answering, Ended


class PromptBatch:
    """An asynchronous iterator of events, a few at a time; `open` it first, `close` it always.

    Answers are numbered prompt by prompt: those of prompt `p` are `p * each` and following.

    Args:
        parts: one for each prompt, of one model; at least one.
        each: how many answers each prompt gets.
        generate: False ends every answer at once, empty, with `length`.

    Attributes:
        accepted: what the model made of each prompt, from `open` on.
    """

    def __init__(self, parts: Sequence[Answering], each: int, *, generate: bool = True) -> None:
        self._parts = parts
        self._each = each
        self._generate = generate
        self._pending: dict[int, asyncio.Future[list[AnswerEvent]]] = {}
        self._begun = False
        self.accepted: tuple[Accepted, ...] = ()
        self.created_s = parts[0].created_s

    async def open(self) -> Accepted:
        """Pass the second gate with every prompt. Raises what `ModelRun.open` raises."""
        self.accepted = tuple([await self._open(place) for place in range(len(self._parts))])
        prompt_tokens = sum(one.prompt_tokens for one in self.accepted)
        return msgspec.structs.replace(self.accepted[0], prompt_tokens=prompt_tokens)

    async def _open(self, place: int) -> Accepted:
        """Open one of the parts; where there are several, an error names which one it was."""
        try:
            return await self._parts[place].open()
        except LmxError as error:
            if error.param == "prompt" and len(self._parts) > 1:
                error.param = f"prompt.{place}"
            raise

    def __aiter__(self) -> "PromptBatch":
        return self

    async def __anext__(self) -> list[AnswerEvent]:
        """The next events of any prompt. Raises the typed error that ended one: it ends all."""
        if not self._begun:
            self._begun = True
            if not self._generate:
                return [Ended(place, "length") for place in range(len(self._parts) * self._each)]
            for place in range(len(self._parts)):
                self._ask(place)
        while self._pending:
            await asyncio.wait(self._pending.values(), return_when=asyncio.FIRST_COMPLETED)
            if events := self._gather():
                return events
        raise StopAsyncIteration

    def _ask(self, place: int) -> None:
        future = asyncio.ensure_future(self._parts[place].__anext__())
        future.add_done_callback(_look)
        self._pending[place] = future

    def _gather(self) -> list[AnswerEvent]:
        arrived: list[AnswerEvent] = []
        for place, future in list(self._pending.items()):
            if not future.done():
                continue
            del self._pending[place]
            try:
                events = future.result()
            except StopAsyncIteration:
                continue
            first = place * self._each
            arrived += [msgspec.structs.replace(one, index=first + one.index) for one in events]
            self._ask(place)
        return arrived

    @property
    def usage(self) -> Usage:
        """Exact counts over all prompts and answers."""
        each = [part.usage for part in self._parts]
        return Usage(
            sum(one.prompt_tokens for one in each),
            sum(one.completion_tokens for one in each),
            sum(one.cached_tokens for one in each),
            sum(one.reasoning_tokens for one in each),
        )

    def close(self) -> None:
        """Free what the call holds, however it ended. Idempotent."""
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()
        for part in self._parts:
            part.close()


def _look(future: "asyncio.Future[list[AnswerEvent]]") -> None:
    """See how it ended: the loop complains of failures that nobody looked at."""
    if not future.cancelled():
        future.exception()
