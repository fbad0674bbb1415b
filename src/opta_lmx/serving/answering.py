"""One model call as clients understand it: thinking, text and tool calls instead of tokens."""

import msgspec

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import CallStart, Delta, FinishKind, ReasoningDelta, TextDelta
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import Accepted, GenerationRequest, TokenEvent, Usage
from opta_lmx.scheduling.rules import Position
from opta_lmx.serving.budgeting import COUNTED, Account
from opta_lmx.serving.group import RunGroup
from opta_lmx.serving.run import Timing


class Spoke(msgspec.Struct, frozen=True):
    """Answer `index` says more.

    `tokens`, where log-probabilities were asked for, are those of the visible text up to here
    that were not given before.
    """

    index: int
    delta: Delta
    tokens: tuple[TokenEvent, ...] = ()


class Ended(msgspec.Struct, frozen=True):
    """Answer `index` is complete; `stop_sequence` is the stop string that ended it, if any."""

    index: int
    finish: FinishKind
    stop_sequence: str | None = None


AnswerEvent = Spoke | Ended


class Answering:
    """An asynchronous iterator of events, a few at a time; `open` it first, `close` it always.

    Args:
        group: the runs.
        request: what they answer.
        telemetry: told of tool calls that could not be read.
        account: what is taken from; None where that is done elsewhere.
        measured: False for what is only opened: no tokens are taken.

    Attributes:
        request: as given.
    """

    def __init__(
        self,
        group: RunGroup,
        request: GenerationRequest,
        telemetry: Telemetry,
        account: Account | None = None,
        *,
        measured: bool = True,
    ) -> None:
        self._group = group
        self.request = request
        self._telemetry = telemetry
        self._account = account
        self._measured = measured
        self._counted = False
        self._failed = False
        self._readers: list[_Reader] = []
        self._dialect = ""
        self.created_s = group.created_s

    async def open(self) -> Accepted:
        """Pass the second gate. Raises what `ModelRun.open` and `Account.charge` raise."""
        try:
            return await self._open()
        except LmxError:
            self._failed = True
            raise

    async def _open(self) -> Accepted:
        request = self.request
        account = self._account if self._measured else None
        if account is not None:
            account.check_answer(request)
        accepted = await self._group.open()
        if account is not None:
            param = "messages" if request.prompt.messages else "prompt"
            await account.charge(accepted.prompt_tokens, param)
        self._counted = not self._measured
        self._dialect = accepted.speech.tools
        style = AnswerStyle(
            stop=request.stop or (),
            speech=accepted.speech,
            tools=() if request.tool_choice.mode == "none" else request.prompt.tools,
            thinking=accepted.thinking,
            raw=not request.prompt.messages,
        )
        self._readers = [
            _Reader(index, Answer(style), request) for index in range(self._group.size)
        ]
        return accepted

    def __aiter__(self) -> "Answering":
        return self

    async def __anext__(self) -> list[AnswerEvent]:
        """The next events, at least one. Raises the typed error that ended the call."""
        while True:
            try:
                token = await self._group.__anext__()
            except StopAsyncIteration:
                self._check_ended()
                raise
            except LmxError:
                self._failed = True
                raise
            events = self._read(token)
            if self._account is not None and self._is_over(token.index):
                # Before its client learns of the end, and may ask again.
                self._end(self._account)
                await self._account.settle()
            if events:
                return events

    def _is_over(self, latest: int) -> bool:
        """Whether all answers have ended, now that one of them went on."""
        return self._readers[latest].ended and all(one.ended for one in self._readers)

    def _read(self, token: TokenEvent) -> list[AnswerEvent]:
        reader = self._readers[token.index]
        events = reader.read(token)
        if reader.ended:
            # The slot must not wait for a client that reads the rest slowly.
            self._group.stop(token.index)
            if failures := reader.parse_failures:
                self._telemetry.count("tool_parse_failures_total", failures, dialect=self._dialect)
        return events

    def _check_ended(self) -> None:
        if not all(reader.ended for reader in self._readers):
            raise LmxError(ErrorKind.INTERNAL, "The answer ended without a reason.")

    @property
    def usage(self) -> Usage:
        """Exact counts of what was generated so far."""
        thought = sum(reader.reasoning_tokens for reader in self._readers)
        return msgspec.structs.replace(self._group.usage, reasoning_tokens=thought)

    @property
    def limited(self) -> GenerationRequest:
        """The request with the bound of its answer by whoever set one, key and server included."""
        return msgspec.structs.replace(self.request, max_tokens=self._group.limit)

    @property
    def position(self) -> Position | None:
        """Where the call stands in line; None while it does not wait there."""
        return self._group.position

    @property
    def timing(self) -> Timing:
        """What the first answer has taken so far."""
        return self._group.timing

    @property
    def ran(self) -> bool:
        """True once the engine has been given any of it."""
        return self._group.ran

    def close(self) -> None:
        """Free what the call holds, however it ended. Idempotent."""
        self._group.close()
        if self._account is not None:
            self._end(self._account)

    def _end(self, account: Account) -> None:
        usage = COUNTED if self._counted else None
        account.end(self.usage if self.ran else usage, ran=self.ran, failed=self._failed)


class _Reader:
    """Reads the tokens of one answer."""

    def __init__(self, index: int, answer: Answer, request: GenerationRequest) -> None:
        self._index = index
        self._answer = answer
        self._wants_tokens = request.top_logprobs is not None
        self._one_call = not request.parallel_tool_calls
        self._unseen: list[TokenEvent] = []
        self.reasoning_tokens = 0
        self.ended = False

    @property
    def parse_failures(self) -> int:
        return self._answer.parse_failures

    def read(self, token: TokenEvent) -> list[AnswerEvent]:
        if self.ended:
            return []
        answer = self._answer
        deltas = answer.feed(token.piece)
        if answer.thinking or any(isinstance(delta, ReasoningDelta) for delta in deltas):
            self.reasoning_tokens += 1
        if self._wants_tokens and token.piece:
            self._unseen.append(token)
        surplus = self._surplus(deltas)
        if surplus is not None:
            events = self._events(deltas[:surplus])
            return [*events, self._end("tool_calls")]
        if not answer.stopped and token.finish is None:
            return self._events(deltas)
        rest, finish = answer.finish("stop" if answer.stopped else token.finish or "stop")
        surplus = self._surplus(rest)
        events = self._events([*deltas, *rest[:surplus]])
        return [*events, self._end("tool_calls" if surplus is not None else finish)]

    def _surplus(self, deltas: list[Delta]) -> int | None:
        """Where a second call begins, though only one at a time was allowed."""
        if not self._one_call:
            return None
        for place, delta in enumerate(deltas):
            if isinstance(delta, CallStart) and delta.index > 0:
                return place
        return None

    def _end(self, finish: FinishKind) -> Ended:
        self.ended = True
        return Ended(self._index, finish, self._answer.stop_sequence)

    def _events(self, deltas: list[Delta]) -> list[AnswerEvent]:
        if not self._wants_tokens:
            return [Spoke(self._index, delta) for delta in deltas]
        events: list[AnswerEvent] = []
        for delta in deltas:
            tokens = tuple(self._unseen) if isinstance(delta, TextDelta) else ()
            self._unseen.clear()
            events.append(Spoke(self._index, delta, tokens))
        return events
