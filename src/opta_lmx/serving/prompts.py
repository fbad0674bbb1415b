"""One call with several prompts: the answers to each, read as one stream of events."""

import contextlib
from collections.abc import Generator, Sequence

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Accepted, Usage
from opta_lmx.serving.answering import AnswerEvent, Answering, Ended
from opta_lmx.serving.budgeting import Account
from opta_lmx.serving.together import Together


class PromptBatch:
    """An asynchronous iterator of events, a few at a time; `open` it first, `close` it always.

    Answers are numbered prompt by prompt: those of prompt `p` are `p * each` and following.

    Args:
        parts: one for each prompt, of one model; at least one.
        each: how many answers each prompt gets.
        account: what the tokens of all prompts are taken from.
        generate: False ends every answer at once, empty, with `length`.

    Attributes:
        accepted: what the model made of each prompt, from `open` on.
    """

    def __init__(
        self, parts: Sequence[Answering], each: int, account: Account, *, generate: bool = True
    ) -> None:
        self._parts = parts
        self._each = each
        self._account = account
        self._generate = generate
        self._ended = False
        self._failed = False
        self._left = len(parts) * each
        self._together = Together(parts)
        self.accepted: tuple[Accepted, ...] = ()
        self.created_s = parts[0].created_s

    async def open(self) -> Accepted:
        """Pass the second gate with every prompt. Raises what `Answering.open` raises."""
        with self._noting_failure():
            self._account.check_answer(self._parts[0].request)
            self.accepted = tuple([await self._open(place) for place in range(len(self._parts))])
            prompt_tokens = sum(one.prompt_tokens for one in self.accepted)
            await self._account.charge(prompt_tokens, "prompt")
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
        if not self._generate:
            if self._ended:
                raise StopAsyncIteration
            self._ended = True
            await self._over()
            return [Ended(place, "length") for place in range(len(self._parts) * self._each)]
        with self._noting_failure():
            arrived = await self._together.next()
        if not arrived:
            raise StopAsyncIteration
        endings = sum(isinstance(event, Ended) for _, events in arrived for event in events)
        self._left -= endings
        if endings and not self._left:
            await self._over()
        return [
            msgspec.structs.replace(event, index=place * self._each + event.index)
            for place, events in arrived
            for event in events
        ]

    @property
    def usage(self) -> Usage:
        """Exact counts over all prompts and answers."""
        each = [part.usage for part in self._parts]
        return Usage(
            sum(one.prompt_tokens for one in each),
            sum(one.completion_tokens for one in each),
            sum(one.cached_tokens for one in each),
            sum(one.reasoning_tokens for one in each),
            sum(one.drafted_tokens for one in each),
            sum(one.accepted_tokens for one in each),
        )

    def close(self) -> None:
        """Free what the call holds, however it ended. Idempotent."""
        self._together.close()
        for part in self._parts:
            part.close()
        self._end()

    async def _over(self) -> None:
        """All answers have ended: what they used is kept before their client learns of it."""
        self._end()
        await self._account.settle()

    def _end(self) -> None:
        ran = any(part.ran for part in self._parts)
        usage = self.usage if ran or self._ended else None
        self._account.end(usage, ran=ran, failed=self._failed)

    @contextlib.contextmanager
    def _noting_failure(self) -> Generator[None]:
        try:
            yield
        except LmxError:
            self._failed = True
            raise
