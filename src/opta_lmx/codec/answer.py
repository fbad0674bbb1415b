"""Splits a model's answer into reasoning, text and tool calls: one splitter, streamed or plain.

Bytes are joined to text; reasoning is told from speech; stop strings are cut on the speech, and
what remains is searched for tool calls. So a stop string counts in the visible text and inside
calls, but not inside reasoning nor in the line breaks behind it, and text after one is never
seen.
"""

import msgspec

from opta_lmx.codec.deltas import (
    CallArguments,
    CallStart,
    Delta,
    FinishKind,
    ReasoningDelta,
    TextDelta,
)
from opta_lmx.codec.stops import StopMatcher
from opta_lmx.codec.tools.dialects import Parser, answer_parser
from opta_lmx.codec.tools.protocol import (
    CallBegin,
    CallEnd,
    CallText,
    TextOut,
    ThoughtOut,
    ToolOut,
)
from opta_lmx.codec.utf8 import Utf8Joiner
from opta_lmx.core.ids import tool_call_id
from opta_lmx.core.types import FinishReason, Speech, Tool

_SLICES = (32, 128)
"""Fewest and most characters searched for stop strings at once.

Where speech ends in a slice the search of its rest was vain, so the next one is short.
"""


class AnswerStyle(msgspec.Struct, frozen=True):
    """How an answer is to be read.

    `stop`: strings that end it and are not part of it. `speech`: how the model marks calls and
    thinking. `tools`: those the request offers; with none, nothing is read as a call.
    `thinking`: the prompt ended inside a block of reasoning. `raw`: no marks are looked for.
    """

    stop: tuple[str, ...] = ()
    speech: Speech = Speech()
    tools: tuple[Tool, ...] = ()
    thinking: bool = False
    raw: bool = False


class Answer:
    """One answer as it is generated.

    Args:
        style: how to read it.

    Attributes:
        stopped: a stop string was met.
        thinking: what was fed last belongs to a block of reasoning.
    """

    def __init__(self, style: AnswerStyle) -> None:
        self._utf8 = Utf8Joiner()
        self._stops = StopMatcher(style.stop) if style.stop else None
        self._parser: Parser | None = None
        if not style.raw and (style.tools or style.speech.reasoning or style.thinking):
            self._parser = answer_parser(
                style.speech, style.tools, calls=bool(style.tools), thinking=style.thinking
            )
            self._parser.pausing = self._stops is not None
        self._slice = _SLICES[1]
        self._calls = _Numbering()
        self.stopped = False
        self.thinking = self._parser is not None and self._parser.thinking

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that was met."""
        return self._stops.matched if self._stops is not None and self.stopped else None

    @property
    def parse_failures(self) -> int:
        """Calls that were begun but could not be read."""
        return 0 if self._parser is None else self._parser.parse_failures

    def feed(self, piece: bytes) -> list[Delta]:
        """Take the bytes of the next token; return what the client may see by now.

        `stopped` is True after a stop string: the caller cancels the generation, and further
        pieces are ignored.
        """
        if self.stopped:
            return []
        parser = self._parser
        if parser is None:
            return self._take(self._utf8.feed(piece))
        thinking = parser.thinking
        deltas = self._take(self._utf8.feed(piece))
        self.thinking = thinking or parser.thinking
        return deltas

    def finish(self, reason: FinishReason) -> tuple[list[Delta], FinishKind]:
        """End the answer; call it once.

        Args:
            reason: why generation ended. A stop string that matched outweighs it.

        Returns:
            What was held back, and OpenAI's finish_reason: `tool_calls` whenever there is a
            complete call and none that was cut (clients drop calls that come with another
            reason beside text), else `length` or `stop`.
        """
        deltas: list[Delta] = [] if self.stopped else self._take(self._utf8.finish())
        if self._stops is not None and not self.stopped:
            deltas += self._unheld(self._stops)
        if self._parser is not None:
            truncated = self.stopped or reason != "stop"
            deltas += self._calls.deltas(self._parser.finish(truncated=truncated))
        deltas += self._calls.rest()
        if self._calls.complete and not self._calls.open:
            return deltas, "tool_calls"
        return deltas, "length" if reason == "length" and not self.stopped else "stop"

    def _take(self, text: str) -> list[Delta]:
        if self._stops is None:
            return self._read(text)
        if self._parser is None:
            safe, self.stopped = self._stops.feed(text)
            return self._read(safe)
        end = self._slice
        items = self._watched(text[:end], self._stops, self._parser)
        while end < len(text) and not self.stopped:
            start, end = end, end + self._slice
            items += self._watched(text[start:end], self._stops, self._parser)
        return self._calls.deltas(items) if items else []

    def _watched(
        self, text: str, stops: StopMatcher, parser: Parser, *, last: bool = False
    ) -> list[ToolOut]:
        """Read text, looking for stop strings wherever the model speaks."""
        items: list[ToolOut] = []
        while not self.stopped:
            speaking = not parser.hushed
            if speaking:
                text, self.stopped = stops.feed(text)
            items += parser.feed(text)
            if last or self.stopped:
                items += parser.settle()
            text = parser.unread()
            if speaking and (text or parser.hushed):
                text += stops.held
                self._slice = _SLICES[0]
                self.stopped = False
                stops.restart()
            elif speaking:
                self._slice = _SLICES[1]
            if not text:
                break
        return items

    def _unheld(self, stops: StopMatcher) -> list[Delta]:
        """Read what waits at the end; what is held then was no stop string."""
        parser = self._parser
        if parser is None:
            return self._read(stops.flush())
        items = self._watched("", stops, parser, last=True)
        parser.pausing = False
        return self._calls.deltas(items) + ([] if self.stopped else self._read(stops.flush()))

    def _read(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self._parser is None:
            return [TextDelta(text)]
        return self._calls.deltas(self._parser.feed(text))


class _Numbering:
    """Numbers the calls, and keeps blank text from standing alone around calls and reasoning."""

    def __init__(self) -> None:
        self._blank: list[str] | None = []
        self.count = 0
        self.complete = 0
        self.open = False

    def deltas(self, items: list[ToolOut]) -> list[Delta]:
        """What a client sees of a parser's output."""
        deltas: list[Delta] = []
        for item in items:
            match item:
                case TextOut():
                    self._text(item.text, deltas)
                case ThoughtOut():
                    self._blank = [] if self._blank is not None else None
                    if item.text:
                        deltas.append(ReasoningDelta(item.text))
                case CallBegin():
                    deltas.append(CallStart(self.count, tool_call_id(), item.name))
                    self.count += 1
                    self.open = True
                    self._blank = []
                case CallText():
                    deltas.append(CallArguments(self.count - 1, item.text))
                case CallEnd():
                    self.complete += 1
                    self.open = False
        return deltas

    def rest(self) -> list[Delta]:
        """Blank text that is all there was."""
        return [TextDelta("".join(self._blank))] if self._blank and not self.count else []

    def _text(self, text: str, deltas: list[Delta]) -> None:
        """Hold blank text at the start and after a call until it is known to lead to words."""
        if self._blank is not None:
            if text.isspace():
                self._blank.append(text)
                return
            text = "".join((*self._blank, text))
            self._blank = None
        deltas.append(TextDelta(text))
