"""Functionary: `<function=NAME>{...}</function>` (3.1), and `>>>NAME` and arguments (3.2).

Also Hunyuan's calls, which are named the same way.
"""

from opta_lmx.codec.tools.named import NamedRules, read_named
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.section import Section, read_section
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

_OPEN, _CLOSE = "<function=", "</function>"
_TAGGED = NamedRules(
    separators=marks_of(">", "{"),
    ends=Ends(marks_of(_CLOSE, _OPEN)),
    closers=marks_of(_CLOSE),
)
_RECIPIENT = ">>>"
_ADDRESSED = NamedRules(
    separators=marks_of("\n", "{"), ends=Ends(marks_of(_RECIPIENT)), closers=marks_of()
)
_ALL = marks_of("all\n", ">>>all\n")


def _read(reading: Reading, _mark: str) -> Reads[Outcome]:
    return (yield from read_named(reading, _TAGGED))


def _read_addressed(reading: Reading, _mark: str) -> Reads[Outcome]:
    outcome = yield from _to(reading)
    return outcome if outcome is Outcome.CALLED else Outcome.NOT


def _read_first(reading: Reading) -> Reads[Outcome]:
    """An answer begins behind a mark that the prompt holds."""
    if (yield from reading.source.peek()) == ">":
        return Outcome.NOT
    outcome = yield from _to(reading)
    return outcome if outcome is Outcome.CALLED else Outcome.NOT


def _to(reading: Reading) -> Reads[Outcome]:
    """What is addressed to `all` is text; anything else is a call."""
    if (yield from reading.source.accept(_ALL)):
        reading.source.raw = []
        return Outcome.NOT
    return (yield from read_named(reading, _ADDRESSED, loose=True))


FUNCTIONARY = Dialect((_OPEN,), _read, strays=(_CLOSE,))
FUNCTIONARY_32 = Dialect((_RECIPIENT,), _read_addressed, _read_first)

_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_HUNYUAN = NamedRules(
    separators=marks_of("\n", "{"),
    ends=Ends(marks_of(_CALL_END, _CALL)),
    closers=marks_of(_CALL_END),
)


def _one(reading: Reading) -> Reads[Outcome]:
    return (yield from read_named(reading, _HUNYUAN))


_SECTION = Section(marks_of("<tool_calls>"), marks_of(_CALL), marks_of("</tool_calls>"), _one)


def _read_hunyuan(reading: Reading, mark: str) -> Reads[Outcome]:
    return (yield from read_section(reading, mark, _SECTION))


HUNYUAN = Dialect(("<tool_calls>", _CALL), _read_hunyuan, strays=("</tool_calls>", _CALL_END))
