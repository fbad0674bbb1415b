"""Calls written as Python: `name(key="value", other=[1, True])`, alone or in a list."""

import re

import msgspec

from opta_lmx.codec.tools.objects import fence
from opta_lmx.codec.tools.reading import WINDOW, Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_OPEN = marks_of("(")
_SEPARATORS = re.compile(r"[\s,;]+")


class PythonRules(msgspec.Struct, frozen=True):
    """`ends`: what ends the calls. `certain`: a mark announced them."""

    ends: Ends
    certain: bool = True


def read_python(reading: Reading, rules: PythonRules) -> Reads[Outcome]:
    """Read one call or several: in brackets, separated by commas, or one a line."""
    source = reading.source
    yield from source.blank(WINDOW)
    yield from fence(reading)
    listed = (yield from source.peek()) == "["
    if listed:
        source.take(source.at + 1)
    called = Outcome.NOT
    while not reading.open:
        outcome = yield from reading.item(lambda: _one(reading, rules))
        if outcome is not Outcome.CALLED:
            return called if called is Outcome.CALLED else outcome
        called = outcome
        if reading.open:
            break
        if not listed and not rules.certain:
            break
        if not (yield from _another(reading, listed=listed)):
            break
    return called


def _another(reading: Reading, *, listed: bool) -> Reads[bool]:
    source = reading.source
    yield from source.skip(_SEPARATORS)
    char = yield from source.peek()
    if char == "]" and listed:
        source.take(source.at + 1)
        return False
    return bool(char) and (char.isalpha() or char == "_")


def _one(reading: Reading, rules: PythonRules) -> Reads[Outcome]:
    source = reading.source
    none = Outcome.BROKEN if rules.certain else Outcome.NOT
    yield from source.blank(WINDOW)
    while True:
        found = _NAME.match(source.text, source.at)
        if found is None:
            if source.at < len(source.text) or not (yield from source.more()):
                return none
        elif found.end() < len(source.text) or found.end() - source.at > WINDOW:
            break
        elif not (yield from source.more()):
            return none
    name = source.take(found.end())
    if not (yield from source.accept(_OPEN)) or not reading.knows(name, loose=not rules.certain):
        return none
    reading.begin(name)
    yield from reading.value(rules.ends, "(")
    return Outcome.CALLED
