"""Mistral: `[TOOL_CALLS]` and a list of calls, or a name, `[ARGS]` and its arguments each."""

from opta_lmx.codec.tools.named import NamedRules, read_named
from opta_lmx.codec.tools.objects import ObjectRules, read_objects
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

TOOL_CALLS = "[TOOL_CALLS]"
ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"

_ENDS = Ends(marks_of(TOOL_CALLS))
_OBJECTS = ObjectRules(_ENDS)
_NAMED = NamedRules(marks_of(ARGS, CALL_ID, "{"), _ENDS, marks_of(), identified=CALL_ID)


def _read(reading: Reading, _mark: str) -> Reads[Outcome]:
    yield from reading.source.blank()
    if (yield from reading.source.peek()) in ("[", "{"):
        return (yield from read_objects(reading, _OBJECTS))
    return (yield from read_named(reading, _NAMED))


MISTRAL = Dialect((TOOL_CALLS,), _read, inner=(ARGS, CALL_ID))
