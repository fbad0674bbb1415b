"""Writes one generated JSON value as sound JSON text while it is still being generated.

Mended on the way: raw control characters, wrong escapes and unescaped quotes in strings, single
quotes, unquoted names, missing, doubled and trailing commas, `True`/`False`/`None`, missing
closers inside and at the end of an answer that the model ended itself. What was written is
never taken back, so every write is the beginning of a sound value. Beyond mending, writing
stops and the value is closed where it was sound.
"""

import re
from enum import Enum, auto

from opta_lmx.codec.tools.shapes import DEEPEST, shapes_of
from opta_lmx.codec.tools.source import PATIENCE, Reads, Source
from opta_lmx.codec.tools.strings import Emit, Ends, StringReader, escaped

MAX_DEPTH = 64
"""What is nested deeper than this is not read."""

_FREE_DEPTH = 6
"""Brackets nested deeper than this count as repairs: they are read one by one."""

LONGEST_WORD = 512
"""Characters of a number, word or unquoted name."""

_CLOSERS = {"{": "}", "[": "]", "(": ")"}
_OBJECTS = frozenset("})")
_SIMPLE = frozenset("{}[](),:= \t\r\n") - {"("}
_WORDS = {"True": "true", "False": "false", "None": "null", "NaN": "null", "undefined": "null"}
_PLAIN = frozenset(("true", "false", "null"))
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LOOSE_NUMBER = re.compile(r"\+?(-?)0*([0-9]*)(\.[0-9]*)?")
_BLANKS = " \t\r\n"
_BLANK = re.compile(r"[ \t\r\n]+")
_WORD = re.compile(r"""[^\s{}\[\](),:="'<>`]+""")
_SEPARATORS = re.compile(r",[ \t\r\n,]{0,63}")
_BARE_MEMBER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*+)[ \t\r\n]*+([:=])")
_BRACKETS = re.compile(r'[{}\[\]()"]')


class Result(Enum):
    """How a value ended."""

    SOUND = auto()
    UNSOUND = auto()
    """It was closed where it was sound; the rest of it is lost."""
    CUT = auto()
    """The answer was cut inside it; it is not complete."""


class _Want(Enum):
    VALUE = auto()
    FIRST = auto()
    """A value, or the end of an empty list."""
    KEY = auto()
    """A member's name, or the end of the object."""
    COLON = auto()
    COMMA = auto()


class ValueReader:
    """Reads one object or list.

    Args:
        source: where the text comes from; the value stands at its position.
        emit: takes JSON text.
        ends: what ends the call from outside.
    """

    def __init__(self, source: Source, emit: Emit, ends: Ends) -> None:
        self._source = source
        self._emit = emit
        self._ends = ends
        self._open: list[str] = []
        self._want = _Want.VALUE
        self._comma: list[str] = []
        self._key = ""
        self._shapes = shapes_of(ends.marks)
        self._firsts = ends.marks.firsts

    def read(self, opener: str = "") -> Reads[Result]:
        """Write the value.

        Args:
            opener: `(` for the arguments of a Python call, whose bracket was consumed.

        Returns:
            How it ended; the source then stands behind it, or at the mark that ended it.
        """
        if opener:
            self._enter(opener)
        result = yield from self._tokens()
        if result is Result.UNSOUND:
            found = yield from _lose(self._source, self._ends, len(self._open))
            result = Result.UNSOUND if found else Result.CUT
        if result is not Result.CUT:
            self._complete()
        return result

    def _tokens(self) -> Reads[Result]:
        source, firsts = self._source, self._firsts
        while True:
            if source.spent >= PATIENCE:
                return Result.UNSOUND
            if source.at >= len(source.text) and not (yield from source.more()):
                return self._ended()
            char = source.text[source.at]
            if char in firsts and (yield from source.follows(self._ends.marks)):
                return Result.SOUND if self._want is not _Want.COLON else Result.UNSOUND
            if self._stretch():
                continue
            if char in _SIMPLE:
                sound = self._simple(char)
            elif char in "\"'":
                self._advance(source.at + 1)
                sound = yield from self._string(char)
            else:
                sound = yield from self._other()
            if not sound:
                return Result.CUT if source.truncated else Result.UNSOUND
            if not self._open:
                return Result.SOUND

    def _ended(self) -> Result:
        if self._source.truncated:
            return Result.CUT
        waiting = self._want is _Want.COLON or (self._want is _Want.VALUE and self._in_object())
        return Result.UNSOUND if waiting else Result.SOUND

    def _stretch(self) -> bool:
        """Pass on as much as is plainly sound, if anything."""
        source, want = self._source, self._want
        depth = max(0, min(DEEPEST, _FREE_DEPTH - len(self._open)))
        if want is _Want.KEY:
            found = self._shapes.members(depth).match(source.text, source.at)
            if found is not None:
                self._run(found.end())
                return True
            found = self._shapes.member.match(source.text, source.at)
            if found is not None:
                self._write(self._advance(found.end()))
                self._want = _Want.VALUE
                return True
            found = _BARE_MEMBER.match(source.text, source.at)
            spent = source.spent + (2 if found is not None and found[2] == "=" else 1)
            if found is not None and spent < PATIENCE:
                source.spent = spent
                self._advance(found.end())
                self._write(f'"{found[1]}":')
                self._want = _Want.VALUE
                return True
        elif (want is _Want.VALUE or want is _Want.FIRST) and self._open:
            if self._open[-1] == "]":
                found = self._shapes.items(depth).match(source.text, source.at)
                if found is not None:
                    self._run(found.end())
                    return True
            found = self._shapes.string.match(source.text, source.at)
            if found is not None:
                self._write(self._advance(found.end()))
                self._want = _Want.COMMA
                return True
        return False

    def _run(self, end: int) -> None:
        """Pass on whole members or items; the comma behind the last one waits."""
        text = self._advance(end)
        if not text.rstrip(_BLANKS).endswith(","):
            self._write(text)
            self._want = _Want.COMMA
            return
        self._want = _Want.KEY if self._in_object() else _Want.VALUE
        at = text.rindex(",")
        self._write(text[:at])
        self._comma.append(text[at:])

    def _advance(self, end: int) -> str:
        source = self._source
        if source.raw is not None:
            return source.take(end)
        text = source.text[source.at : end]
        source.at = end
        return text

    def _simple(self, char: str) -> bool:
        """Take a token that is there in full."""
        source = self._source
        if char == ",":
            found = _SEPARATORS.match(source.text, source.at)
            spare = found.group().count(",") - (self._want is _Want.COMMA) if found else 0
            if self._want is _Want.COLON or not found or source.spent + spare >= PATIENCE:
                spare = int(self._want is not _Want.COMMA)
                self._advance(source.at + 1)
                blank = ""
            else:
                blank = self._advance(found.end()).replace(",", "")
            source.spent += spare
            sound = self._separator()
            if blank:
                self._blank(blank)
            return sound
        if char in "{[":
            self._advance(source.at + 1)
            return self._value(adding=True) and self._enter(char)
        if char in "}])":
            self._advance(source.at + 1)
            return self._close(char)
        if char in ":=":
            source.spent += char == "="
            self._advance(source.at + 1)
            return self._colon()
        found = _BLANK.match(source.text, source.at)
        self._blank(self._advance(found.end() if found else source.at + 1))
        return True

    def _other(self) -> Reads[bool]:
        """Take a word, or the dialect's own quote."""
        source = self._source
        found = _WORD.match(source.text, source.at)
        if source.text[source.at].isspace():
            source.spent += 1
            self._advance(source.at + 1)
            return True
        if found is None:
            quote = self._ends.quote
            mark = (yield from source.accept(quote)) if quote else ""
            return bool(mark) and (yield from self._string(mark))
        while found.end() == len(source.text) and found.end() - source.at <= LONGEST_WORD:
            if not (yield from source.more()):
                break
            found = _WORD.match(source.text, source.at) or found
        cut = source.truncated and found.end() == len(source.text)
        if cut or found.end() - source.at > LONGEST_WORD:
            return False
        return self._word(self._advance(found.end()))

    def _blank(self, text: str) -> None:
        if self._comma:
            self._comma.append(text)
        elif self._want is not _Want.COLON:
            self._emit(text)

    def _string(self, quote: str) -> Reads[bool]:
        self._source.spent += (quote != '"') + (self._want is _Want.COMMA)
        if self._want is _Want.COMMA:
            self._separator()
        if self._want is _Want.KEY:
            parts: list[str] = []
            reader = StringReader(self._source, parts.append, self._ends)
            closed = yield from reader.read(quote, key=True, listed=False)
            self._key = "".join(parts)
            self._want = _Want.COLON
            return closed
        if not self._value():
            return False
        self._write("")
        reader = StringReader(self._source, self._emit, self._ends)
        return (yield from reader.read(quote, key=False, listed=not self._in_object()))

    def _word(self, text: str) -> bool:
        if self._want is _Want.KEY:
            self._source.spent += 1
            self._key = f'"{escaped(text)}"'
            self._want = _Want.COLON
            return True
        literal = _literal(text)
        self._source.spent += literal != text
        if not self._value(adding=literal[0] != '"'):
            return False
        self._write(literal)
        return True

    def _value(self, *, adding: bool = False) -> bool:
        """Whether a value may begin here; with `adding` a comma may have been forgotten."""
        if adding and self._want is _Want.COMMA and not self._in_object():
            self._source.spent += 1
            self._separator()
        if self._want not in (_Want.VALUE, _Want.FIRST):
            return False
        self._want = _Want.COMMA
        return True

    def _separator(self) -> bool:
        """A comma; it is written when something follows."""
        if self._want is _Want.COLON:
            return False
        if self._want is _Want.VALUE and self._in_object():
            self._write("null")
            self._want = _Want.COMMA
        if self._want is _Want.COMMA:
            self._comma.append(",")
            self._want = _Want.KEY if self._in_object() else _Want.VALUE
        return True

    def _colon(self) -> bool:
        if self._want is not _Want.COLON:
            return False
        self._write(self._key + ":")
        self._want = _Want.VALUE
        return True

    def _enter(self, opener: str) -> bool:
        if len(self._open) == MAX_DEPTH:
            return False
        self._source.spent += len(self._open) >= _FREE_DEPTH
        self._open.append(_CLOSERS[opener])
        self._write("[" if opener == "[" else "{")
        self._want = _Want.FIRST if opener == "[" else _Want.KEY
        return True

    def _close(self, closer: str) -> bool:
        """A closer: also closes what stands open inside; a superfluous one is passed over."""
        if self._want is _Want.COLON:
            return False
        if closer not in self._open:
            self._source.spent += 1
            return closer != ")"
        self._source.spent += bool(self._comma) or self._open[-1] != closer
        while True:
            innermost = self._leave()
            if innermost == closer:
                return True

    def _leave(self) -> str:
        if self._want is _Want.VALUE and self._in_object():
            self._source.spent += 1
            self._write("null")
        self._comma.clear()
        closer = self._open.pop()
        self._emit("]" if closer == "]" else "}")
        self._want = _Want.COMMA
        return closer

    def _complete(self) -> None:
        while self._open:
            self._leave()

    def _in_object(self) -> bool:
        return bool(self._open) and self._open[-1] in _OBJECTS

    def _write(self, text: str) -> None:
        if self._comma:
            self._emit("".join(self._comma))
            self._comma.clear()
        if text:
            self._emit(text)


def _lose(source: Source, ends: Ends, depth: int) -> Reads[bool]:
    """Pass over what is left of a value; False when the answer is cut before its end.

    `depth` brackets are open: they are counted where no mark will tell.
    """
    marks = ends.marks
    if not marks.all:
        return (yield from _lose_brackets(source, depth))
    while True:
        found = marks.whole.search(source.text, source.at)
        if found is not None:
            source.take(found.start())
            return True
        source.take(len(source.text) - marks.cut(source.text, source.at))
        if not (yield from source.more()):
            source.take(len(source.text))
            return not source.truncated


def _lose_brackets(source: Source, depth: int) -> Reads[bool]:
    quoted = False
    while True:
        for found in _BRACKETS.finditer(source.text, source.at):
            char = found.group()
            if char == '"':
                quoted = not quoted
            elif not quoted and len(char) == 1:
                depth += 1 if char in "{[(" else -1
                if depth <= 0:
                    source.take(found.end())
                    return True
        source.take(len(source.text))
        if not (yield from source.more()):
            return not source.truncated


def _literal(word: str) -> str:
    """JSON for a bare word: as it is, in JSON's spelling, or as a string."""
    if word in _PLAIN or _NUMBER.fullmatch(word):
        return word
    if word in _WORDS:
        return _WORDS[word]
    loose = _LOOSE_NUMBER.fullmatch(word)
    if loose is not None and (loose[2] or (loose[3] or ".") != "."):
        fraction = loose[3] if loose[3] and loose[3] != "." else ""
        return f"{loose[1]}{loose[2] or '0'}{fraction}"
    return f'"{escaped(word)}"'
