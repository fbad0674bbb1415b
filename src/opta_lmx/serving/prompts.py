"""One call with several prompts: the answers to each, read as one stream of events."""

from collections.abc import Sequence

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
        self._together = Together(parts)
        self.accepted: tuple[Accepted, ...] = ()
        self.created_s = parts[0].created_s

    async def open(self) -> Accepted:
        """Pass the second gate with every prompt. Raises what `Answering.open` raises."""
        self._account.check_answer(self._parts[0].request)
        self.accepted = tuple([await self._open(place) for place in range(len(self._parts))])
        prompt_tokens = sum(one.prompt_tokens for one in self.accepted)
        self._account.take(prompt_tokens, "prompt")
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
            return [Ended(place, "length") for place in range(len(self._parts) * self._each)]
        arrived = await self._together.next()
        if not arrived:
            raise StopAsyncIteration
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
        if not any(part.ran for part in self._parts):
            self._account.give_back()
