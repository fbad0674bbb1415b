"""Splits a model's answer into text and tool calls: one splitter, streamed or plain.

Bytes are joined to text, stop strings are cut on that text, and what remains is searched for
tool calls. So a stop string also counts inside a call, and text after one is never seen.
"""

from collections.abc import Iterable

import msgspec

from opta_lmx.codec.stops import StopMatcher
from opta_lmx.codec.tools.dialects import parser_for
from opta_lmx.codec.tools.protocol import TextOut, ToolOut
from opta_lmx.codec.utf8 import Utf8Joiner
from opta_lmx.core.ids import tool_call_id
from opta_lmx.core.types import FinishReason, ToolCall


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the answer's text; never empty."""

    text: str


class CallDelta(msgspec.Struct, frozen=True):
    """One whole tool call; `index` counts the calls of this answer from 0."""

    index: int
    call: ToolCall


Delta = TextDelta | CallDelta


class Answer:
    """One answer as it is generated.

    Args:
        stop: strings that end the answer and are not part of it.
        dialect: how the model writes tool calls; None where the request has no tools.
    """

    def __init__(self, stop: tuple[str, ...], dialect: str | None) -> None:
        self._utf8 = Utf8Joiner()
        self._stops = StopMatcher(stop) if stop else None
        self._calls = None if dialect is None else _CallSplitter(dialect)
        self.stopped = False

    @property
    def parse_failures(self) -> int:
        """Calls that were begun but could not be read, and so became text."""
        return 0 if self._calls is None else self._calls.parse_failures

    def feed(self, piece: bytes) -> list[Delta]:
        """Take the bytes of the next token; return what the client may see by now.

        `stopped` is True after a stop string: the caller cancels the generation, and further
        pieces are ignored.
        """
        if self.stopped:
            return []
        return self._take(self._utf8.feed(piece))

    def finish(self, reason: FinishReason) -> tuple[list[Delta], str]:
        """End the answer; call it once.

        Args:
            reason: why generation ended. A stop string that matched outweighs it.

        Returns:
            What was held back, and OpenAI's finish_reason: `tool_calls` whenever there is a
            call (clients drop calls that come with another reason beside text), else `length`
            or `stop`.
        """
        deltas: list[Delta] = [] if self.stopped else self._take(self._utf8.finish())
        if self._stops is not None and not self.stopped:
            deltas += self._split(self._stops.flush())
        truncated = self.stopped or reason != "stop"
        if self._calls is not None:
            deltas += self._calls.finish(truncated=truncated)
            if self._calls.count:
                return deltas, "tool_calls"
        return deltas, "length" if reason == "length" and not self.stopped else "stop"

    def _take(self, text: str) -> list[Delta]:
        if self._stops is not None:
            text, self.stopped = self._stops.feed(text)
        return self._split(text)

    def _split(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self._calls is None:
            return [TextDelta(text)]
        return self._calls.feed(text)


class _CallSplitter:
    """Numbers the calls, and keeps blank text from standing alone before or after them."""

    def __init__(self, dialect: str) -> None:
        self._parser = parser_for(dialect)
        self._blank: list[str] | None = []
        self.count = 0

    @property
    def parse_failures(self) -> int:
        return self._parser.parse_failures

    def feed(self, text: str) -> list[Delta]:
        return self._deltas(self._parser.feed(text))

    def finish(self, *, truncated: bool) -> list[Delta]:
        deltas = self._deltas(self._parser.finish(truncated=truncated))
        if self._blank and not self.count:
            deltas.append(TextDelta("".join(self._blank)))
        return deltas

    def _deltas(self, items: list[ToolOut]) -> list[Delta]:
        deltas: list[Delta] = []
        for item in items:
            if isinstance(item, TextOut):
                self._text(item.text, deltas)
            else:
                call = ToolCall(tool_call_id(), item.name, item.arguments)
                deltas.append(CallDelta(self.count, call))
                self.count += 1
                self._blank = []
        return deltas

    def _text(self, text: str, deltas: list[Delta]) -> None:
        """Hold blank text at the start and after a call until it is known to lead to words."""
        if self._blank is not None:
            if text.isspace():
                self._blank.append(text)
                return
            text = "".join((*self._blank, text))
            self._blank = None
        deltas.append(TextDelta(text))


def collect(deltas: Iterable[Delta]) -> tuple[str, tuple[ToolCall, ...]]:
    """Return the whole text and all calls, for an answer that is sent in one piece."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    for delta in deltas:
        if isinstance(delta, TextDelta):
            texts.append(delta.text)
        else:
            calls.append(delta.call)
    return "".join(texts), tuple(calls)
