"""Strings inside generated JSON: streamed as sound JSON text, with their usual flaws mended."""

import json
import re
from collections.abc import Callable
from functools import lru_cache

import msgspec

from opta_lmx.codec.tools.source import PATIENCE, Marks, Reads, Source

LOOKAHEAD = 64
"""Characters looked at beyond a quote to tell whether it closes the string."""

Emit = Callable[[str], None]

_QUOTES = frozenset("\"'")
_FLAW = re.compile(r'["\x00-\x1f]|\\(?!["\\/bfnrtu])|\\u(?![0-9a-fA-F]{4})')
_DOUBTFUL = re.compile(r"""\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}|')|["\\\x00-\x1f]""")
_SPELLED = {char: json.dumps(char)[1:-1] for char in map(chr, (*range(32), 34, 92))}
_SPELLED["\\'"] = "'"
_CONTROL = re.compile(r'["\\\x00-\x1f]')
_ESCAPE = re.compile(r'\\(?:(?P<whole>["\\/bfnrt]|u[0-9a-fA-F]{4})|u[0-9a-fA-F]{0,3})?')
# Quotes that something other than JSON follows at once: they belong to the text.
_INNER = {quote: re.compile(rf"(?:{quote} {{0,8}}(?=[{quote}\w])){{1,64}}+") for quote in "\"'"}
_VALUE_STARTS = frozenset("\"'{[-0123456789tfnTFN}])")
_KEY_STARTS = frozenset("\"'})")


class Ends(msgspec.Struct, frozen=True):
    """What ends a value from outside.

    `marks` end the call wherever they stand outside strings. `quote` is a literal that opens
    and closes strings whose content is written as it is (Gemma); None: quotes as in JSON.
    `opens`: those of the marks that begin another call.
    """

    marks: Marks
    quote: Marks | None = None
    opens: frozenset[str] = frozenset()


quoted: Callable[[str], str] = json.JSONEncoder(ensure_ascii=False).encode
"""Returns a text as a JSON string."""


def escaped(text: str) -> str:
    """Return `text` as the inside of a JSON string."""
    return quoted(text)[1:-1] if _CONTROL.search(text) else text


def _mend(found: re.Match[str]) -> str:
    text = found.group()
    return _SPELLED.get(text, text)


class StringReader:
    """Reads one string whose opening quote was consumed; writes it with its quotes.

    A quote closes the string only where JSON can go on after it, so that a model's unescaped
    quotes stay inside. A mark of the dialect inside a string is part of it; but if the string
    then never closes, or an end is followed by the mark of another call, a quote was lost, and
    the first mark did end the call.

    Args:
        source: where the text comes from.
        emit: takes JSON text. ends: what ends the call.
    """

    def __init__(self, source: Source, emit: Emit, ends: Ends) -> None:
        self._source = source
        self._emit = emit
        self._ends = ends
        self._held: list[str] | None = None
        self._raw: list[str] = []
        self._from = 0
        self._ending = False
        self._lost = False
        self._flawed = False

    def read(self, quote: str, *, key: bool, listed: bool) -> Reads[bool]:
        """Return whether the string was closed; at the end of a whole answer it is ended.

        Args:
            quote: the opening quote.
            key: it names a member.
            listed: it stands in a list.
        """
        self._emit('"')
        literal = quote not in _QUOTES
        while True:
            yield from self._run(quote)
            char = yield from self._source.peek()
            if not char:
                return self._unclosed()
            if literal and self._ends.quote and (yield from self._source.accept(self._ends.quote)):
                break
            if char == quote and self._inner(quote):
                continue
            if char == quote:
                self._consume(1)
                closes = yield from self._closes(key=key, listed=listed)
                if closes is None:
                    return self._unclosed()
                if closes:
                    break
                self._write('\\"' if quote == '"' else "'")
                if self._repaired():
                    return False
            elif char == "\\" and not literal:
                yield from self._escape()
            elif not (yield from self._mark()):
                self._write(escaped(self._consume(1)))
            elif self._lost:
                self._emit('"')
                return False
        self._source.spent += self._flawed
        self._release()
        self._emit('"')
        return True

    def _run(self, quote: str) -> Reads[None]:
        """Pass on what needs no care."""
        source = self._source
        pattern, marks = _patterns(quote, self._ends)
        while True:
            end = len(source.text) - marks.cut(source.text, source.at)
            found = pattern.match(source.text, source.at, end)
            if found is not None:
                text = self._consume(found.end() - source.at)
                self._write(self._sound(text) if quote in _QUOTES else escaped(text))
            if source.at < end:
                return
            if not (yield from source.more()):
                text = self._consume(len(source.text) - source.at)
                if not source.truncated:
                    self._write(escaped(text))
                return

    def _sound(self, text: str) -> str:
        """Return a stretch of a quoted string with its escapes and control characters sound."""
        if _FLAW.search(text) is None:
            return text
        sound = _DOUBTFUL.sub(_mend, text) if "\\" in text else escaped(text)
        self._flawed = self._flawed or sound != text
        return sound

    def _inner(self, quote: str) -> bool:
        found = _INNER[quote].match(self._source.text, self._source.at)
        if found is None:
            return False
        spent = self._source.spent + found.group().count(quote)
        if spent >= PATIENCE:
            return False  # these are read one by one, up to the last that is worth a repair
        self._source.spent = spent
        self._write(self._consume(len(found.group())).replace('"', '\\"'))
        return True

    def _mark(self) -> Reads[bool]:
        """Whether a mark stands here; from the first one on, what is written waits."""
        mark = yield from self._source.follows(self._ends.marks)
        if not mark:
            return False
        source = self._source
        if self._held is not None and self._ending and mark in self._ends.opens:
            source.back(self._from, "".join(self._raw))
            self._lost = True
        elif source.literal:
            self._lost = True
        else:
            if self._held is None:
                self._held, self._from = [], source.base + source.at
                self._ending = mark not in self._ends.opens
            self._write(escaped(self._consume(len(mark))))
            source.spent += 1
            if source.weary:
                self._release()
                self._lost = True
        return True

    def _escape(self) -> Reads[None]:
        """One escape: sound ones stay, that of `'` is dropped, others mean a backslash."""
        source = self._source
        found = _ESCAPE.match(source.text, source.at)
        while found is not None and found.end() == len(source.text) and not found["whole"]:
            if not (yield from source.more()):
                break
            found = _ESCAPE.match(source.text, source.at)
        following = source.text[source.at + 1 : source.at + 2]
        if found is not None and source.truncated and not found["whole"]:
            self._consume(len(found.group()))
        elif found is not None and found["whole"]:
            self._write(self._consume(len(found.group())))
        elif following == "'":
            self._flawed = True
            self._consume(2)
            self._write("'")
        else:
            self._flawed = True
            self._consume(1)
            if following:
                self._write("\\\\")

    def _closes(self, *, key: bool, listed: bool) -> Reads[bool | None]:
        """Whether the quote just consumed closes the string; None: the answer is cut here."""
        source = self._source
        while True:
            window = source.text[source.at : source.at + LOOKAHEAD]
            verdict = _verdict(window, self._ends.marks, key=key, listed=listed)
            if verdict is not None:
                return verdict
            if len(window) == LOOKAHEAD:
                return True
            if not (yield from source.more()):
                return None if source.truncated else True

    def _consume(self, size: int) -> str:
        text = self._source.take(self._source.at + size)
        if self._held is not None:
            self._raw.append(text)
        return text

    def _write(self, text: str) -> None:
        if self._held is None:
            self._emit(text)
        else:
            self._held.append(text)

    def _release(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._emit("".join(held))

    def _repaired(self) -> bool:
        """Count a repair; if it was the last, end the string here."""
        self._source.spent += 1
        if not self._source.weary:
            return False
        self._release()
        self._emit('"')
        return True

    def _unclosed(self) -> bool:
        """The answer ended inside the string: its quote was lost before the first mark in it."""
        source = self._source
        if source.truncated:
            self._release()
            return False
        if self._held is not None:
            source.literal = True
            source.back(self._from, "".join(self._raw))
        self._emit('"')
        return False


@lru_cache(maxsize=64)
def _compiled(quote: str, marks: Marks) -> re.Pattern[str]:
    """Text of a string up to what needs care: its quote, a mark, an escape not yet whole."""
    firsts = "".join(sorted({re.escape(mark[0]) for mark in marks.all}))
    apart = rf"|[{firsts}](?!{_rests(marks)})" if firsts else ""
    if quote not in _QUOTES:
        return re.compile(rf"(?:[^{firsts}]+{apart})++" if firsts else r"[\s\S]++")
    whole = r"|\\u(?:[0-9a-fA-F]{4}|(?=[0-9a-fA-F]{0,3}[^0-9a-fA-F]))"
    return re.compile(rf"(?:[^{quote}\\{firsts}]+|\\[^u{firsts}]{whole}{apart})++")


def _rests(marks: Marks) -> str:
    """After any first character of a mark: the rest of any mark."""
    return "|".join(re.escape(mark[1:]) for mark in marks.all)


@lru_cache(maxsize=64)
def _all_marks(ends: Ends) -> Marks:
    return Marks((*ends.marks.all, *(ends.quote.all if ends.quote else ())))


def _patterns(quote: str, ends: Ends) -> tuple[re.Pattern[str], Marks]:
    marks = ends.marks if quote in _QUOTES else _all_marks(ends)
    return _compiled(quote, marks), marks


def _verdict(window: str, marks: Marks, *, key: bool, listed: bool) -> bool | None:
    """Whether a quote before `window` closes its string; None: more must be seen."""
    rest = window.lstrip()
    if not rest:
        return None
    char = rest[0]
    if marks.whole.match(rest):
        return True
    if marks.cut(rest, 0) == len(rest):
        return None
    if key:
        return char in ":=,})"
    if char in "}])":
        return True
    if char == ",":
        after = rest[1:].lstrip()
        if not after:
            return None
        if after[0] in (_VALUE_STARTS if listed else _KEY_STARTS):
            return True
        named = _NAME.match(after)
        return named is not None and (None if named.end() == len(after) else bool(named["then"]))
    return char in "\"'" and "\n" in window[: len(window) - len(rest)]


# An unquoted member name, as in Python's or JavaScript's writing.
_NAME = re.compile(r"[A-Za-z_]\w*\s*(?P<then>[:=])?")
