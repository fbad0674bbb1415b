"""Reads one answer: reasoning, text and calls, in one pass over the text as it arrives."""

import itertools
import re
from collections.abc import Callable
from typing import cast

import msgspec

from opta_lmx.codec.reasoning import ThinkMarks
from opta_lmx.codec.tools.protocol import CallText, Schemas, TextOut, ThoughtOut, ToolOut
from opta_lmx.codec.tools.reading import WINDOW, Outcome, Reading
from opta_lmx.codec.tools.source import PATIENCE, Marks, Reads, marks_of

_LUMP = 128
_LONG = 4096
"""After so many characters of an answer, calls are read in lumps of `_LUMP` characters."""

_MARRED = 512
"""A long answer that needed so many repairs is read in lumps throughout."""

_QUOTES = frozenset("`\"'")
_NONE = marks_of()
_LINE_BREAKS = re.compile(r"[\r\n]+")


class Dialect(msgspec.Struct, frozen=True):
    """How a family of models writes calls.

    `opens`: marks that announce calls anywhere; `read` takes over at one of them (it is told
    which, and consumed it). `bare`: reads calls that an answer begins with, without a mark.
    `strays`: closing marks that are dropped where they stand alone after a call. `inner`:
    other marks of the form; engines must keep the text of all of them.
    """

    opens: tuple[str, ...]
    read: Callable[[Reading, str], Reads[Outcome]]
    bare: Callable[[Reading], Reads[Outcome]] | None = None
    strays: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark that a vocabulary may hold as one token."""
        return (*self.opens, *self.strays, *self.inner)


def either(first: Dialect, second: Dialect) -> Dialect:
    """Both dialects at once; where both know a mark, the first reads it."""

    def read(reading: Reading, mark: str) -> Reads[Outcome]:
        return (yield from (first if mark in first.opens else second).read(reading, mark))

    return Dialect(
        opens=tuple(dict.fromkeys((*first.opens, *second.opens))),
        read=read,
        bare=first.bare or second.bare,
        strays=(*first.strays, *second.strays),
        inner=(*first.inner, *second.inner),
    )


class StreamParser:
    """What parsers of whole answers share: they are coroutines over one `Reading`.

    Attributes:
        pausing: stop wherever speech begins or ends (`hushed` changes); `unread` returns what
            was not consumed.
    """

    def __init__(self, tools: Schemas) -> None:
        self._reading = Reading(tools)
        self._source = self._reading.source
        self._run: Reads[None] = self._reads()
        self._paused = False
        self._lump = ""
        self._left = ""
        self.pausing = False

    @property
    def parse_failures(self) -> int:
        """Calls that were begun but could not be read, and 1 where patience ran out."""
        return self._reading.failures + self._source.weary

    @property
    def thinking(self) -> bool:
        """The text consumed last belongs to a block of reasoning."""
        return self._reading.thinking

    @property
    def hushed(self) -> bool:
        """What comes next is not the answer's visible text, nor part of a call in it."""
        raise NotImplementedError

    @property
    def cut(self) -> bool:
        """A call has begun and is not complete."""
        return self._reading.open

    def feed(self, text: str) -> list[ToolOut]:
        """Take the next generated text."""
        self._lump += text
        return [] if len(self._lump) < _LUMP and self._lumping() else self.settle()

    def settle(self) -> list[ToolOut]:
        """Read what waits in a lump."""
        if not self._lump:
            return []
        self._source.add(self._lump)
        self._lump = ""
        return self._resume()

    def unread(self) -> str:
        """Return what was not consumed at a pause; it is to be fed again."""
        text, self._left = self._left, ""
        return text

    def finish(self, *, truncated: bool) -> list[ToolOut]:
        """End the answer."""
        out = self.settle()
        self._source.end(truncated=truncated)
        return out + self._resume()

    def _lumping(self) -> bool:
        """Whether what comes is read in lumps: there may be a call in it."""
        source = self._source
        if source.base <= _LONG:
            return False
        return self._reading.open or source.raw is not None or source.spent > _MARRED

    def _reads(self) -> Reads[None]:
        raise NotImplementedError

    def _resume(self) -> list[ToolOut]:
        next(self._run, None)
        if self._paused:
            self._paused = False
            self._left = self._source.text[self._source.at :]
            self._source.base += self._source.at
            self._source.text, self._source.at = "", 0
        reading = self._reading
        reading.flush()
        out, reading.out = reading.out, []
        return joined(out) if len(out) > 1 else out

    def _pause(self) -> Reads[None]:
        if self.pausing and not self._source.ended:
            self._paused = True
            yield


class AnswerParser(StreamParser):
    """The parser of every dialect that marks its calls; see `protocol.ToolParser`.

    A call is also found inside reasoning that was not closed. A mark of reasoning counts
    wherever it stands, unless a quote or backtick stands directly before it: then the model
    speaks about the mark.

    Args:
        dialect: how calls are written; None: none are looked for.
        think: how reasoning is marked; None: not at all.
        tools: what the request offers.
        thinking: the answer begins inside a block of reasoning.
    """

    def __init__(
        self,
        dialect: Dialect | None,
        think: ThinkMarks | None = None,
        tools: Schemas = (),
        *,
        thinking: bool = False,
    ) -> None:
        super().__init__(tools)
        self._dialect = dialect
        self._think = think or ThinkMarks((), ())
        opens = dialect.opens if dialect is not None else ()
        self._marks = marks_of(*opens, *self._think.all)
        self._after = marks_of(*self._marks.all, *(dialect.strays if dialect else ()))
        self._closes = marks_of(*self._think.closes)
        self._opens = frozenset(opens)
        if thinking and think is not None:
            self._reading.start_thinking()
        self._fresh = True

    @property
    def hushed(self) -> bool:
        """What comes next is reasoning, or line breaks behind it."""
        return self._reading.thinking or self._reading.trimming

    def _reads(self) -> Reads[None]:
        reading = self._reading
        bare = self._dialect.bare if self._dialect is not None else None
        while not reading.open:  # what is left of a call that was cut is no text
            if self._fresh and bare is not None and not reading.thinking and not self._source.weary:
                outcome = yield from reading.item(lambda: self._bare(bare))
                self._fresh = outcome is Outcome.CALLED
                if self._fresh:
                    continue
            mark = yield from self._plain()
            if mark is None:
                return
            yield from self._at(mark)

    def _bare(self, bare: Callable[[Reading], Reads[Outcome]]) -> Reads[Outcome]:
        """Try calls without a mark, unless one stands here."""
        lead = yield from self._source.blank(WINDOW)
        if len(lead) == WINDOW or (yield from self._source.follows(self._marks)):
            return Outcome.NOT
        return (yield from bare(self._reading))

    def _plain(self) -> Reads[str | None]:
        """Pass text on up to a mark, and return that mark; None at the end."""
        source, reading = self._source, self._reading
        while True:
            marks: Marks = self._after if reading.called else self._marks
            if source.spent >= PATIENCE:  # only the block that is open may still end
                marks = self._closes if reading.thinking else _NONE
            found = marks.whole.search(source.text, source.at)
            if found is not None:
                reading.say(source.take(found.start()))
                mark = found.group()
                if source.last not in _QUOTES or mark in self._opens:
                    return mark
                source.spent += 1
                reading.say(source.take(source.at + 1))
                continue
            end = len(source.text) - marks.cut(source.text, source.at)
            reading.say(source.take(end))
            if source.ended:
                reading.say(source.take(len(source.text)))
                return None
            yield

    def _at(self, mark: str) -> Reads[None]:
        reading, think = self._reading, self._think
        if mark in self._opens:
            outcome = yield from reading.item(lambda: self._call(mark))
            self._fresh = outcome is Outcome.CALLED
            return
        self._source.take(self._source.at + len(mark))
        self._source.spent += 1
        if mark in think.closes:
            reading.stop_thinking()
            yield from self._trim()
            self._fresh = True
            yield from self._pause()
        elif mark in think.opens:
            if not reading.thinking:
                reading.start_thinking()
                yield from self._pause()
            elif not reading.thoughtless:
                reading.say(mark)

    def _trim(self) -> Reads[None]:
        """Drop the line breaks between reasoning and text."""
        yield from self._source.skip(_LINE_BREAKS)
        self._reading.trimming = False

    def _call(self, mark: str) -> Reads[Outcome]:
        self._source.take(self._source.at + len(mark))
        assert self._dialect is not None
        return (yield from self._dialect.read(self._reading, mark))


def joined(out: list[ToolOut]) -> list[ToolOut]:
    """Join neighbours of one kind."""
    merged: list[ToolOut] = []
    for kind, items in itertools.groupby(out, type):
        if kind is TextOut or kind is ThoughtOut or kind is CallText:
            merged.append(kind("".join(item.text for item in cast("list[TextOut]", items))))
        else:
            merged += items
    return merged
