"""Several calls between the marks of one section."""

from collections.abc import Callable

import msgspec

from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Marks, Reads


class Section(msgspec.Struct, frozen=True):
    """Marks around a section (`opens`, `closes`) and before each of its calls (`call`)."""

    opens: Marks
    call: Marks
    closes: Marks
    read: Callable[[Reading], Reads[Outcome]]


def read_section(reading: Reading, mark: str, section: Section) -> Reads[Outcome]:
    """Read the calls of a section, or one that stands without it.

    Args:
        reading: the answer.
        mark: the mark that was consumed.
        section: the marks.
    """
    source = reading.source
    outcome = Outcome.BROKEN
    if mark in section.call.all:
        outcome = yield from section.read(reading)
        if outcome is not Outcome.CALLED:
            return outcome
    while not reading.open:
        yield from source.blank()
        if outcome is Outcome.CALLED and (yield from source.accept(section.closes)):
            break
        if not (yield from source.follows(section.call)):
            _swallow(reading, section.closes)
            break
        one = yield from reading.item(lambda: _call(reading, section))
        if one is not Outcome.CALLED:
            return outcome
        outcome = one
    return outcome


def _call(reading: Reading, section: Section) -> Reads[Outcome]:
    yield from reading.source.accept(section.call)
    return (yield from section.read(reading))


def _swallow(reading: Reading, closes: Marks) -> None:
    """At the end of an answer, half a closing mark is no text."""
    source = reading.source
    left = len(source.text) - source.at
    if source.ended and reading.called and closes.cut(source.text, source.at) == left:
        source.take(len(source.text))
