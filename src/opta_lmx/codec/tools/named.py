"""Calls written as a name, a separator and one JSON value of arguments."""

import msgspec

from opta_lmx.codec.tools.objects import fence
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Marks, Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

_FENCE = marks_of("```")


class NamedRules(msgspec.Struct, frozen=True):
    """How a name and its arguments are written.

    `separators` stand behind the name (`{` is not consumed). `ends`: marks that end the call;
    `closers`: those of them that belong to it. `before`: what may stand before the name.
    `identified`: the separator that an id follows. `numbered`: names are spelt `functions.NAME:0`.
    """

    separators: Marks
    ends: Ends
    closers: Marks
    before: Marks | None = None
    numbered: bool = False
    identified: str = ""


def read_named(reading: Reading, rules: NamedRules, *, loose: bool = False) -> Reads[Outcome]:
    """Read one call whose opening mark was consumed."""
    source = reading.source
    yield from source.blank()
    if rules.before is not None:
        yield from source.accept(rules.before)
    said = yield from reading.name(rules.separators)
    name = _plain(said, numbered=rules.numbered)
    if not reading.knows(name, loose=loose):
        return Outcome.BROKEN
    while (yield from source.follows(rules.separators)) not in ("", "{"):
        separator = yield from source.accept(rules.separators)
        if separator == rules.identified:
            yield from reading.until(rules.separators)
        yield from source.blank()
    if (yield from source.peek()) == "`":
        yield from fence(reading)
    if (yield from source.peek()) != "{":
        return (yield from _without_arguments(reading, rules, name))
    reading.begin(name)
    yield from reading.value(rules.ends)
    if not reading.open:
        yield from close(reading, rules.closers)
    return Outcome.CALLED


def close(reading: Reading, closers: Marks) -> Reads[bool]:
    """Pass over the end of a call: blanks, a fence's end, one of its closing marks."""
    source = reading.source
    if not closers.all:
        return True
    yield from source.blank()
    if (yield from source.accept(_FENCE)):
        yield from source.blank()
    if (yield from source.accept(closers)):
        return True
    if source.ended and 0 < closers.cut(source.text, source.at) == len(source.text) - source.at:
        source.take(len(source.text))
    return False


def _without_arguments(reading: Reading, rules: NamedRules, name: str) -> Reads[Outcome]:
    if rules.closers.all and (yield from source_closes(reading, rules.closers)):
        reading.whole(name, "{}")
        return Outcome.CALLED
    return Outcome.BROKEN


def source_closes(reading: Reading, closers: Marks) -> Reads[bool]:
    """Whether a closing mark stands here, behind blanks; it is consumed."""
    yield from reading.source.blank()
    return bool((yield from reading.source.accept(closers)))


def _plain(name: str, *, numbered: bool) -> str:
    """The name without the parts that a dialect adds to it."""
    if numbered and ":" in name:
        head, _, tail = name.rpartition(":")
        name = head if tail.isdigit() else name
    return name.removeprefix("functions.")
