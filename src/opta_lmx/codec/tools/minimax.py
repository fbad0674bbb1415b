"""MiniMax M2: `<minimax:tool_call>` around `<invoke name=...>` with `<parameter name=...>`."""

from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.section import Section, read_section
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.tagged import TagRules, read_tagged

OPEN, CLOSE = "<minimax:tool_call>", "</minimax:tool_call>"
INVOKE = '<invoke name="'

_TAGS = TagRules(
    name_ends=marks_of('">'),
    key=marks_of('<parameter name="'),
    key_ends=marks_of('">'),
    value_ends=marks_of("</parameter>"),
    closers=marks_of("</invoke>"),
)


def _invoke(reading: Reading) -> Reads[Outcome]:
    return (yield from read_tagged(reading, _TAGS))


_SECTION = Section(marks_of(OPEN), marks_of(INVOKE), marks_of(CLOSE), _invoke)


def _read(reading: Reading, mark: str) -> Reads[Outcome]:
    return (yield from read_section(reading, mark, _SECTION))


MINIMAX = Dialect((OPEN,), _read, strays=(CLOSE,))
