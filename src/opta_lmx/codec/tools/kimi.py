"""Kimi K2: a section of calls, each with an id that holds its name (`functions.NAME:0`)."""

from opta_lmx.codec.tools.named import NamedRules, read_named
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.section import Section, read_section
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
ARGUMENTS = "<|tool_call_argument_begin|>"

_NAMED = NamedRules(
    separators=marks_of(ARGUMENTS, "{"),
    ends=Ends(marks_of(CALL_END, CALL, END)),
    closers=marks_of(CALL_END),
    numbered=True,
)


def _one(reading: Reading) -> Reads[Outcome]:
    return (yield from read_named(reading, _NAMED))


_SECTION = Section(marks_of(BEGIN), marks_of(CALL), marks_of(END), _one)


def _read(reading: Reading, mark: str) -> Reads[Outcome]:
    return (yield from read_section(reading, mark, _SECTION))


KIMI = Dialect((BEGIN, CALL), _read, strays=(END, CALL_END), inner=(ARGUMENTS,))
