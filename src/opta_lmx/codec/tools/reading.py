"""What every dialect's reader works with: the text, the calls it makes of it, the tools."""

import re
from collections.abc import Callable
from enum import Enum, auto

from opta_lmx.codec.tools.json_text import Result, ValueReader
from opta_lmx.codec.tools.parameters import ArgumentTypes
from opta_lmx.codec.tools.protocol import (
    CallBegin,
    CallEnd,
    CallText,
    Schemas,
    TextOut,
    ThoughtOut,
    ToolOut,
)
from opta_lmx.codec.tools.source import CALL_COST, Marks, Reads, Source
from opta_lmx.codec.tools.strings import Ends

LONGEST_NAME = 256
"""Characters of a tool's name."""

_NAME_PART = re.compile(r"[\w.\-/:\"]")

_UNTYPED = ArgumentTypes({})

WINDOW = 256
"""Characters of white space after which an answer's beginning counts as text."""


class Outcome(Enum):
    """What a reader made of the text at its position."""

    CALLED = auto()
    """At least one call began."""
    NOT = auto()
    """This is no call at all."""
    BROKEN = auto()
    """This was to be a call, but cannot be read."""


class Reading:
    """One answer being read.

    Args:
        tools: what the request offers; empty: names and types are unknown.

    Attributes:
        source: the text. out: what came of it and is not yet fetched.
        failures: calls that could not be read whole.
        thinking: what is said belongs to a block of reasoning; there only names that are
            offered begin a call, because a model also thinks about calls.
        trimming: line breaks between reasoning and text are being dropped.
        open: a call has begun and not ended. called: at least one has begun.
        fenced: the calls stand in a code fence.
    """

    def __init__(self, tools: Schemas) -> None:
        self.source = Source()
        self.out: list[ToolOut] = []
        self.failures = 0
        self.thinking = False
        self.trimming = False
        self.open = False
        self.called = False
        self.fenced = False
        self.tools = {tool.name: tool for tool in tools}
        self._types: dict[str, ArgumentTypes] = {}
        self._parts: list[str] = []
        self._blank: list[str] | None = None

    def begin(self, name: str) -> None:
        """A call begins; from here on nothing is given back."""
        self.flush()
        self.out.append(CallBegin(name))
        self.source.raw = None
        self.open = self.called = True

    def argue(self, text: str) -> None:
        """More of the open call's arguments."""
        self._parts.append(text)

    def end(self) -> None:
        """The open call is complete."""
        self.flush()
        self.out.append(CallEnd())
        self.open = False
        self.source.last = ""

    def flush(self) -> None:
        """Put gathered arguments into `out`."""
        if self._parts:
            text = "".join(self._parts)
            self._parts.clear()
            if text:
                self.out.append(CallText(text))

    def say(self, text: str) -> None:
        """Text that is no part of a call."""
        if self.thinking:
            self._think(text)
            return
        if text:
            self.flush()
            self.out.append(TextOut(text))

    def start_thinking(self) -> None:
        """What follows is reasoning; blanks at its beginning and end are dropped."""
        self.thinking = True
        self._blank = None
        self.flush()
        self.out.append(ThoughtOut(""))

    def stop_thinking(self) -> None:
        """What follows is the answer's text."""
        if not self.thinking:
            self.flush()
            self.out.append(ThoughtOut(""))
        self.thinking = False
        self.trimming = True

    @property
    def thoughtless(self) -> bool:
        """The block of reasoning holds nothing so far."""
        return self._blank is None

    def _think(self, text: str) -> None:
        """Blank text waits until it is known to lead to more thoughts."""
        words = text.rstrip()
        if not words:
            if self._blank is not None:
                self._blank.append(text)
            return
        if self._blank is None:
            blank, shown = "", words.lstrip()
        else:
            blank, shown = "".join(self._blank), words
        self._blank = [text[len(words) :]]
        self.flush()
        self.out.append(ThoughtOut(blank + shown))

    def knows(self, name: str, *, loose: bool = False) -> bool:
        """Whether a call may bear this name; `loose` forms, and reasoning, call only tools."""
        return bool(name) and (not (self.thinking or loose) or not self.tools or name in self.tools)

    def types(self, name: str) -> ArgumentTypes:
        """What the arguments of this tool may be; nothing is known of one that is not offered."""
        tool = self.tools.get(name)
        if tool is None:
            return _UNTYPED
        if name not in self._types:
            self._types[name] = ArgumentTypes(tool.parameters)
        return self._types[name]

    def whole(self, name: str, arguments: str) -> None:
        """A call that is complete at once."""
        self.begin(name)
        self.argue(arguments)
        self.end()

    def value(self, ends: Ends, opener: str = "") -> Reads[None]:
        """Read the arguments of the open call: one JSON value at the source's position."""
        result = yield from ValueReader(self.source, self.argue, ends).read(opener)
        if result is Result.CUT:
            return
        self.failures += result is Result.UNSOUND
        self.end()

    def item(self, reads: Callable[[], Reads[Outcome]]) -> Reads[Outcome]:
        """Read one call of several; what is none comes out as text, unless a caller holds it."""
        source = self.source
        if source.raw is not None:
            return (yield from reads())
        if source.weary:
            return Outcome.NOT
        source.spent += CALL_COST
        source.raw = []
        outcome = yield from reads()
        if outcome is not Outcome.CALLED:
            self.give_back(outcome)
        return outcome

    def give_back(self, outcome: Outcome) -> None:
        """What was consumed in doubt becomes text."""
        raw, self.source.raw = self.source.raw or [], None
        self.failures += outcome is Outcome.BROKEN and not self.thinking
        self.say("".join(raw))

    def rest(self, marks: Marks) -> Reads[str]:
        """Pass over what is left of a call, up to its end mark; return the mark."""
        source = self.source
        while True:
            found = marks.whole.search(source.text, source.at)
            if found is not None:
                source.take(found.start())
                return found.group()
            source.take(len(source.text) - marks.cut(source.text, source.at))
            if not (yield from source.more()):
                source.take(len(source.text))
                return ""

    def name(self, ends: Marks) -> Reads[str]:
        """Read a tool's name up to one of the marks; empty when none stands here."""
        source = self.source
        parts: list[str] = []
        while not (yield from source.follows(ends)):
            found = _NAME_PART.match(source.text, source.at)
            if found is None or len(parts) == LONGEST_NAME:
                return ""
            parts.append(source.take(found.end()))
            if source.at >= len(source.text) and not (yield from source.more()):
                return ""
        return "".join(parts).strip('"')

    def until(self, marks: Marks, limit: int = LONGEST_NAME) -> Reads[str | None]:
        """Consume text up to one of the marks, not the mark; None when it is too far off."""
        source = self.source
        parts: list[str] = []
        while limit > 0:
            found = marks.whole.search(source.text, source.at, source.at + limit)
            if found is not None:
                parts.append(source.take(found.start()))
                return "".join(parts)
            cut = marks.cut(source.text, source.at)
            parts.append(source.take(min(len(source.text) - cut, source.at + limit)))
            limit -= len(parts[-1])
            if len(source.text) - source.at > cut or not (yield from source.more()):
                return None
        return None
