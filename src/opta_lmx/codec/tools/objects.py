"""Calls written as JSON objects, alone or in lists: a name and arguments under various keys."""

import re

import msgspec

from opta_lmx.codec.tools.calls import read_calls
from opta_lmx.codec.tools.json_text import ValueReader
from opta_lmx.codec.tools.reading import LONGEST_NAME, Outcome, Reading
from opta_lmx.codec.tools.source import PATIENCE, Reads, Source, marks_of
from opta_lmx.codec.tools.strings import Ends, StringReader

NAMES = frozenset(("name", "tool_name", "function", "function_name"))
ARGUMENTS = frozenset(("arguments", "parameters", "args", "input"))
OTHERS = frozenset(("type", "id", "index", "tool_call_id", "call_id"))
_KNOWN = NAMES | ARGUMENTS | OTHERS

_SHORT = re.compile(r'"((?:[^"\\\x00-\x1f]|\\.)*+)"')
_SHORT_CUT = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*+\\?')
_FENCE = marks_of("```")
_LABEL = re.compile(r"[a-z_]*")
_SEPARATORS = re.compile(r"[\s,;]+")
_FILLERS = re.compile(r"[\s,]+")
_CLOSERS = re.compile(r"\}+")
_MENDED_AT_ONCE = 8
"""Characters of a finished call whose mending counts as one repair."""


class ObjectRules(msgspec.Struct, frozen=True):
    """Which objects are calls.

    `ends`: what ends the call. `bare_name`: a name without arguments is a call. `certain`: a
    mark announced calls, so that what is none is broken, not simply text. `keyed`: the form is
    `{"name": {arguments}}`.
    """

    ends: Ends
    bare_name: bool = False
    certain: bool = True
    keyed: bool = False


def read_objects(reading: Reading, rules: ObjectRules) -> Reads[Outcome]:
    """Read one object or list of calls, or several, perhaps in a code fence.

    After calls that no mark announced, separators that lead to no other call are text.
    """
    source = reading.source
    yield from source.blank()
    reading.fenced = False
    yield from fence(reading)
    outcome = yield from _several(reading, rules)
    if outcome is not Outcome.CALLED:
        return outcome
    while not reading.open:
        yield from _fence_end(reading)
        if rules.certain:
            yield from _separators(source)
            if (yield from source.peek()) not in ("{", "["):
                break
        if (yield from reading.item(lambda: _next(reading, rules))) is not Outcome.CALLED:
            break
    return Outcome.CALLED


def fence(reading: Reading) -> Reads[None]:
    """Pass over the beginning of a code fence."""
    source = reading.source
    if not (yield from source.accept(_FENCE)):
        return
    reading.fenced = True
    while True:
        found = _LABEL.match(source.text, source.at)
        if found is not None and found.end() < len(source.text):
            source.take(found.end())
            break
        if not (yield from source.more()):
            break
    yield from source.blank()


def _fence_end(reading: Reading) -> Reads[None]:
    """Pass over the end of a code fence in which the calls stood."""
    if reading.fenced:
        yield from reading.source.blank()
        yield from reading.source.accept(_FENCE)
        reading.fenced = False


def short_text(source: Source) -> Reads[str | None]:
    """Read a short JSON string; None when none stands here."""
    while True:
        window = source.text[source.at : source.at + LONGEST_NAME]
        found = _SHORT.match(window)
        if found is not None:
            source.take(source.at + found.end())
            return _decoded(found.group())
        if _SHORT_CUT.fullmatch(window) is None or len(window) == LONGEST_NAME:
            return None
        if not (yield from source.more()):
            return None


def _decoded(text: str) -> str | None:
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _separators(source: Source) -> Reads[None]:
    yield from source.skip(_SEPARATORS)


def _next(reading: Reading, rules: ObjectRules) -> Reads[Outcome]:
    source = reading.source
    yield from _separators(source)
    if (yield from source.follows(rules.ends.marks)):
        source.raw = []  # nothing but separators, and another mark takes over
        return Outcome.NOT
    yield from fence(reading)
    return (yield from _several(reading, rules))


def _several(reading: Reading, rules: ObjectRules) -> Reads[Outcome]:
    """Read one object, or a list of them with its closing bracket."""
    source = reading.source
    if (yield from source.peek()) != "[":
        return (yield from _ObjectReader(reading, rules).read())
    source.take(source.at + 1)
    outcome = Outcome.NOT
    while not reading.open:
        yield from _separators(source)
        char = yield from source.peek()
        if char == "]" and outcome is Outcome.CALLED:
            source.take(source.at + 1)
            break
        one = yield from reading.item(lambda: _ObjectReader(reading, rules).read())
        if one is not Outcome.CALLED:
            return outcome if outcome is Outcome.CALLED else one
        outcome = one
    return outcome


class _ObjectReader:
    """Reads one object up to and with its closing bracket."""

    def __init__(self, reading: Reading, rules: ObjectRules) -> None:
        self._reading = reading
        self._source = reading.source
        self._rules = rules
        self._name = ""
        self._depth = 0
        self._late = False
        self._begun = len(reading.source.raw or ())

    def read(self) -> Reads[Outcome]:
        source = self._source
        if (yield from source.peek()) != "{":
            return self._none()
        while True:
            char = yield from source.peek()
            if char == "{":
                self._depth += 1
                source.take(source.at + 1)
                if self._depth > 2:
                    return self._none()
            elif char.isspace() or char == ",":
                yield from source.skip(_FILLERS)
            elif char == '"':
                outcome = yield from self._member()
                if outcome is not None:
                    return outcome
            elif char == "}":
                source.take(source.at + 1)
                self._depth -= 1
                if self._depth == 0:
                    return self._whole()
            else:
                return (yield from self._broken_off())

    def _none(self) -> Outcome:
        return Outcome.BROKEN if self._rules.certain else Outcome.NOT

    def _member(self) -> Reads[Outcome | None]:
        """Read one member; None when the object goes on."""
        source = self._source
        source.spent += 1
        key = yield from short_text(source)
        yield from source.blank()
        if key is None or source.weary or (yield from source.peek()) != ":":
            return Outcome.BROKEN if self._name else self._none()
        source.take(source.at + 1)
        if key not in _KNOWN:
            if not self._rules.certain:
                return Outcome.NOT
            source.spent += 1
        yield from source.blank()
        char = yield from source.peek()
        if self._rules.keyed and char == "{" and self._reading.knows(key):
            return (yield from self._arguments(key))
        if key in NAMES and char == '"':
            name = yield from short_text(source)
            if not name or not self._reading.knows(name):
                return Outcome.BROKEN
            self._name = name
            return None
        if key == "function" and char == "{":
            return None
        if key in ARGUMENTS and self._name and char == "{":
            return (yield from self._arguments(self._name))
        self._late = self._late or key in ARGUMENTS
        return None if (yield from self._skip(char)) else Outcome.BROKEN

    def _skip(self, char: str) -> Reads[bool]:
        """Pass over a value of any kind."""
        source = self._source
        if char in ("{", "["):
            yield from ValueReader(source, _drop, self._rules.ends).read()
            return True
        if char == '"':
            source.take(source.at + 1)
            reader = StringReader(source, _drop, self._rules.ends)
            return (yield from reader.read('"', key=False, listed=False))
        word = yield from self._reading.until(_AFTER_WORD)
        return bool(word)

    def _arguments(self, name: str) -> Reads[Outcome]:
        """Stream the arguments, then pass over what is left of the object."""
        source = self._source
        self._reading.begin(name)
        yield from self._reading.value(self._rules.ends)
        while not self._reading.open and self._depth:
            char = yield from source.peek()
            if char == "}":
                self._depth -= 1
                source.take(source.at + 1)
            elif char and (char.isspace() or char == ","):
                yield from source.skip(_FILLERS)
            elif char != '"' or not (yield from self._spare()):
                break
        if not self._reading.open:
            yield from source.skip(_CLOSERS)
        return Outcome.CALLED

    def _spare(self) -> Reads[bool]:
        """Pass over a member behind the arguments."""
        source = self._source
        source.spent += 1
        key = yield from short_text(source)
        yield from source.blank()
        if key is None or source.weary or (yield from source.peek()) != ":":
            return False
        source.take(source.at + 1)
        yield from source.blank()
        return (yield from self._skip((yield from source.peek())))

    def _whole(self, *, may_close: bool = False) -> Outcome:
        """The object ended before any arguments could be streamed."""
        if self._name and not self._late and self._rules.bare_name:
            self._reading.whole(self._name, "{}")
            return Outcome.CALLED
        raw = "".join((self._source.raw or [])[self._begun :])
        bare_name = self._rules.bare_name
        calls = read_calls(raw, may_close=may_close, bare_name=bare_name, sound=True)
        spent = self._source.spent + len(raw) // _MENDED_AT_ONCE
        if calls is None and spent < PATIENCE:
            self._source.spent = spent
            calls = read_calls(raw, may_close=may_close, bare_name=bare_name)
        if not calls or not all(self._reading.knows(call.name) for call in calls):
            return Outcome.BROKEN if calls is None or self._rules.certain else Outcome.NOT
        for call in calls:
            self._reading.whole(call.name, call.arguments)
        return Outcome.CALLED

    def _broken_off(self) -> Reads[Outcome]:
        """Something stands where a member should: perhaps only the closers are missing."""
        source = self._source
        at_mark = yield from source.follows(self._rules.ends.marks)
        ended = source.ended and source.at >= len(source.text)
        if at_mark or (ended and not source.truncated):
            return self._whole(may_close=True)
        return Outcome.BROKEN if self._name else self._none()


_AFTER_WORD = marks_of(",", "}", "]", "\n")


def _drop(_text: str) -> None:
    """Forget what was skipped."""
