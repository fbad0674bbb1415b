# ruff: noqa: RUF001  (the marks are spelt with full-width bars)
"""DeepSeek: V3.1's and R1's named calls in a section, and the tags of V3.2 and V4 (DSML)."""

from opta_lmx.codec.tools.named import NamedRules, read_named
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.section import Section, read_section
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends
from opta_lmx.codec.tools.tagged import TagRules, read_tagged

BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"

_NAMED = NamedRules(
    separators=marks_of(SEPARATOR, "\n```", "{"),
    ends=Ends(marks_of(CALL_END, CALL, END)),
    closers=marks_of(CALL_END),
)
_KIND = NamedRules(
    separators=marks_of("\n", "{"),
    ends=_NAMED.ends,
    closers=_NAMED.closers,
)
_FUNCTION = marks_of("function" + SEPARATOR)


def _one(reading: Reading) -> Reads[Outcome]:
    """A call; R1 and V3 write its kind before its name and a fence around its arguments."""
    yield from reading.source.blank()
    if (yield from reading.source.accept(_FUNCTION)):
        return (yield from read_named(reading, _KIND))
    return (yield from read_named(reading, _NAMED))


_SECTION = Section(marks_of(BEGIN), marks_of(CALL), marks_of(END), _one)
BAR = "<｜DSML｜"


def _read(reading: Reading, mark: str) -> Reads[Outcome]:
    return (yield from read_section(reading, mark, _SECTION))


DEEPSEEK = Dialect((BEGIN, CALL), _read, strays=(END, CALL_END), inner=(SEPARATOR,))

_TAGS = TagRules(
    name_ends=marks_of('">'),
    key=marks_of(BAR + 'parameter name="'),
    key_ends=marks_of('" string="true">', '" string="false">', '">'),
    value_ends=marks_of("</｜DSML｜parameter>"),
    closers=marks_of("</｜DSML｜invoke>"),
    typed={'" string="true">': True, '" string="false">': False},
)


def _invoke(reading: Reading) -> Reads[Outcome]:
    return (yield from read_tagged(reading, _TAGS))


_DSML_OPENS = (BAR + "function_calls>", BAR + "tool_calls>")
_DSML_CLOSES = ("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>")
_DSML_SECTION = Section(
    marks_of(*_DSML_OPENS), marks_of(BAR + 'invoke name="'), marks_of(*_DSML_CLOSES), _invoke
)


def _read_dsml(reading: Reading, mark: str) -> Reads[Outcome]:
    return (yield from read_section(reading, mark, _DSML_SECTION))


DSML = Dialect(
    (*_DSML_OPENS, BAR + 'invoke name="'), _read_dsml, strays=_DSML_CLOSES, inner=(BAR[1:],)
)
