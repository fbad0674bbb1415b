"""One model call over HTTP, whatever the dialect: when headers go, what ends a stream, keep-alive.

A dialect brings a `Rendering`; this module decides when it is asked.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec
from starlette.responses import Response

from opta_lmx.api.streaming import EventStream, PlainAnswer, StreamWriter
from opta_lmx.codec.deltas import Collected, Delta, FinishKind, collect
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Accepted, TokenEvent, Usage
from opta_lmx.serving.answering import AnswerEvent, Ended


class CallLimits(msgspec.Struct, frozen=True):
    """Body size (bytes), and the times (s) a body, a first byte and a silent stream may take."""

    body_limit_bytes: int
    body_timeout_s: float
    keepalive_s: float
    prepare_before_headers_s: float


class Choice(msgspec.Struct, frozen=True):
    """One whole answer; `tokens` are those of its text, where log-probabilities were asked for.

    `deltas` are its pieces in the order they came, for dialects whose answers keep it.
    """

    collected: Collected
    finish: FinishKind
    stop_sequence: str | None = None
    tokens: tuple[TokenEvent, ...] = ()
    deltas: tuple[Delta, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """A whole call."""

    accepted: Accepted
    choices: tuple[Choice, ...]
    usage: Usage


class Rendering(Protocol):
    """One call's answer in one dialect, as bytes. Empty bytes are not sent.

    A stream is `waiting`? (`noop`)* `opened` `event`* `finished`, or ends anywhere with
    `failed`. A plain answer is `whole`.
    """

    media_type: str
    """Of the stream."""

    def waiting(self) -> bytes:
        """Sent first when the headers must go before the call is accepted (a model loads)."""
        ...

    def noop(self) -> bytes:
        """Says nothing, in an event that the client's watchdog counts."""
        ...

    def opened(self, accepted: Accepted) -> bytes:
        """The call is accepted and waits for its turn."""
        ...

    def event(self, event: AnswerEvent) -> bytes:
        """More of an answer, or its end."""
        ...

    def finished(self, usage: Usage) -> bytes:
        """All answers have ended."""
        ...

    def failed(self, error: LmxError) -> bytes:
        """The stream ends here, with an error its client understands."""
        ...

    def whole(self, outcome: Outcome) -> bytes:
        """The plain answer."""
        ...


class Answers(Protocol):
    """A call that is answered: `serving.answering.Answering`, or several of them as one."""

    @property
    def usage(self) -> Usage:
        """Exact counts of what was generated so far."""
        ...

    async def open(self) -> Accepted:
        """Pass the second gate; comes first. Raises LmxError."""
        ...

    def __aiter__(self) -> AsyncIterator[list[AnswerEvent]]:
        """Events, a few at a time, until every answer has ended. Raises LmxError."""
        ...

    def close(self) -> None:
        """Free what the call holds, however it ended. Idempotent."""
        ...


class Exchange:
    """Joins a call with its rendering.

    Args:
        answering: the call, not yet opened.
        rendering: how it is told.
        limits: times.
        clock: time.
        masked: takes keys out of an error that is told.
    """

    def __init__(
        self,
        answering: Answers,
        rendering: Rendering,
        limits: CallLimits,
        clock: Clock,
        masked: Callable[[LmxError], LmxError],
    ) -> None:
        self._answering = answering
        self._rendering = rendering
        self._limits = limits
        self._clock = clock
        self._masked = masked

    def response(self, *, stream: bool, headers: dict[str, str] | None = None) -> Response:
        """The HTTP response that makes and sends the answer, and frees all when it ends."""
        if not stream:
            return PlainAnswer(self._plain, close=self._answering.close, headers=headers)
        return EventStream(
            self._stream,
            noop=self._rendering.noop,
            keepalive_s=self._limits.keepalive_s,
            clock=self._clock,
            close=self._answering.close,
            media_type=self._rendering.media_type,
            headers=headers,
        )

    async def _plain(self) -> bytes:
        """Run the call to its end. Raises the typed error that ended it."""
        accepted = await self._answering.open()
        choices: defaultdict[int, _Gathered] = defaultdict(_Gathered)
        async for events in self._answering:
            for event in events:
                choices[event.index].take(event)
        ordered = tuple(choices[index].choice() for index in sorted(choices))
        return self._rendering.whole(Outcome(accepted, ordered, self._answering.usage))

    async def _stream(self, writer: StreamWriter) -> None:
        """Write the answer; errors after the first byte become an error event."""
        try:
            await self._tell(writer)
        except LmxError as error:
            if not writer.started:
                raise
            await writer.write(self._rendering.failed(self._masked(error)))

    async def _tell(self, writer: StreamWriter) -> None:
        rendering = self._rendering
        opened = rendering.opened(await self._open(writer))
        if opened:
            await writer.write(opened)
        async for events in self._answering:
            data = b"".join([rendering.event(event) for event in events])
            if data:
                await writer.write(data)
        await writer.write(rendering.finished(self._answering.usage))

    async def _open(self, writer: StreamWriter) -> Accepted:
        """Pass the second gate; a wait longer than the limit (loading) sends the headers first."""
        opening = asyncio.ensure_future(self._answering.open())
        try:
            await asyncio.wait({opening}, timeout=self._limits.prepare_before_headers_s)
            if not opening.done():
                await writer.write(self._rendering.waiting())
            return await opening
        finally:
            opening.cancel()


class _Gathered:
    """The pieces of one answer until it is whole."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._tokens: list[TokenEvent] = []
        self._end: Ended | None = None

    def take(self, event: AnswerEvent) -> None:
        if isinstance(event, Ended):
            self._end = event
        else:
            self._deltas.append(event.delta)
            self._tokens += event.tokens

    def choice(self) -> Choice:
        assert self._end is not None, "an answer that did not end raised"
        return Choice(
            collect(self._deltas),
            self._end.finish,
            self._end.stop_sequence,
            tuple(self._tokens),
            tuple(self._deltas),
        )
