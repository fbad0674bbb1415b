"""Calls written in tags: a name, then one tag a parameter with its value as bare text."""

from collections.abc import Callable

import msgspec

from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Marks, Reads
from opta_lmx.codec.tools.strings import escaped, quoted
from opta_lmx.codec.tools.values import value_json

_STRING = frozenset(("string",))


class TagRules(msgspec.Struct, frozen=True):
    """The tags of one form; a call's own opening was consumed up to its name.

    `name_ends` stand behind the name and are consumed, but for those in `kept`. `key` opens a
    parameter, `key_ends` end its name; `value` opens its value where another tag does, and
    `value_ends` ends it. `closers` end the call. `padded`: a value stands on lines of its own.
    `typed` maps a `key_ends` to whether the value is a string.
    """

    name_ends: Marks
    key: Marks
    key_ends: Marks
    value_ends: Marks
    closers: Marks
    kept: frozenset[str] = frozenset()
    value: Marks | None = None
    padded: bool = False
    typed: dict[str, bool] = {}


def read_tagged(reading: Reading, rules: TagRules) -> Reads[Outcome]:
    """Read one call."""
    source = reading.source
    name = yield from reading.name(rules.name_ends)
    if not reading.knows(name):
        return Outcome.BROKEN
    end = yield from source.follows(rules.name_ends)
    if end not in rules.kept:
        yield from source.accept(rules.name_ends)
    yield from source.blank()
    mark = yield from source.follows(rules.key)
    if not mark and not (yield from source.follows(rules.closers)):
        return Outcome.BROKEN
    reading.begin(name)
    yield from _Members(reading, rules, name).read()
    return Outcome.CALLED


class _Members:
    """Reads the parameters of one call and writes them as a JSON object."""

    def __init__(self, reading: Reading, rules: TagRules, name: str) -> None:
        self._reading = reading
        self._source = reading.source
        self._rules = rules
        self._known = reading.types(name)
        self._count = 0

    def read(self) -> Reads[None]:
        source, rules = self._source, self._rules
        sound = True
        while True:
            yield from source.blank()
            if (yield from source.accept(rules.key)):
                if not (yield from self._member()):
                    sound = False
                    break
            elif (yield from source.accept(rules.closers)):
                break
            else:
                sound = source.ended and not source.truncated and self._at_end()
                break
        if source.truncated and not sound:
            return
        if not sound:
            self._reading.failures += 1
        self._reading.argue("}" if self._count else "{}")
        self._reading.end()

    def _at_end(self) -> bool:
        """Whether nothing but the beginning of a closing tag is left."""
        source = self._source
        left = len(source.text) - source.at
        if self._rules.closers.cut(source.text, source.at) == left:
            source.take(len(source.text))
            return True
        return False

    def _member(self) -> Reads[bool]:
        source, rules = self._source, self._rules
        key = yield from self._reading.until(rules.key_ends)
        if key is None:
            return False
        end = yield from source.accept(rules.key_ends)
        if rules.value is not None:
            yield from source.blank()
            if not (yield from source.accept(rules.value)):
                return False
        types = self._types(key.strip(), end)
        opening = ", " if self._count else "{"
        head = f"{opening}{quoted(key.strip())}: "
        if types == _STRING:
            self._reading.argue(head + '"')
            self._count += 1
            closed = yield from self._text()
            if closed or not source.truncated:
                self._reading.argue('"')
            return closed
        return (yield from self._bare(head, types))

    def _types(self, key: str, end: str) -> frozenset[str]:
        said = self._rules.typed.get(end)
        if said is True:
            return _STRING
        types = self._known.of(key)
        return types - _STRING if said is False else types

    def _bare(self, head: str, types: frozenset[str]) -> Reads[bool]:
        """A value that is not simply text: it is written when it is known whole."""
        parts: list[str] = []
        closed = yield from self._pieces(parts.append)
        if not closed and self._source.truncated:
            return False
        self._reading.argue(head + value_json("".join(parts), types, self._source))
        self._count += 1
        return closed

    def _text(self) -> Reads[bool]:
        return (yield from self._pieces(lambda text: self._reading.argue(escaped(text))))

    def _pieces(self, take: Callable[[str], None]) -> Reads[bool]:
        """Hand on a value's text as it comes; whether its end was found."""
        source, ends = self._source, self._rules.value_ends
        padding = ""
        if self._rules.padded and (yield from source.peek()) == "\n":
            source.take(source.at + 1)
            padding = "\n"
        last = ""
        while True:
            found = ends.whole.search(source.text, source.at)
            end = found.start() if found else len(source.text) - ends.cut(source.text, source.at)
            text = last + source.take(end)
            last = ""
            if padding and text.endswith(padding):
                last, text = padding, text[:-1]
            if text:
                take(text)
            if found is not None:
                source.take(found.end())
                return True
            if not (yield from source.more()):
                # Cut here, what is left may be the beginning of the end.
                left = source.take(len(source.text))
                if last + left and not source.truncated:
                    take(last + left)
                return False
