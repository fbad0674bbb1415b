"""Calls as bare JSON: the generic dialect, Llama 3's, and those marked by a word of their own.

Read are one object or list of `{"name": ..., "arguments" | "parameters": ...}`, several of them
one after another, in code fences, or after the marks `<|python_tag|>` (Llama) and
`[TOOL_CALLS]` (Mistral), which may also stand after text.
"""

from opta_lmx.codec.tools.objects import ObjectRules, read_objects
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.pythonic import PythonRules, read_python
from opta_lmx.codec.tools.reading import WINDOW, Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

PYTHON_TAG = "<|python_tag|>"
TOOL_CALLS = "[TOOL_CALLS]"

_ENDS = Ends(marks_of(PYTHON_TAG, TOOL_CALLS))
_BARE = ObjectRules(_ENDS, certain=False)
_PYTHON = PythonRules(_ENDS, certain=False)


def read_bare(reading: Reading) -> Reads[Outcome]:
    """Read calls that stand without a mark; JSON that is no call is the answer's text."""
    source = reading.source
    lead = yield from source.blank(WINDOW)
    char = yield from source.peek()
    if len(lead) == WINDOW or char not in ("{", "[", "`"):
        return Outcome.NOT
    return (yield from read_objects(reading, _BARE))


def _read_marked(reading: Reading, _mark: str) -> Reads[Outcome]:
    return (yield from read_bare(reading))


def _read_llama(reading: Reading, _mark: str) -> Reads[Outcome]:
    """After Llama's mark stands JSON, or Python that calls a tool."""
    yield from reading.source.blank(WINDOW)
    char = yield from reading.source.peek()
    if char and (char.isalpha() or char == "_"):
        return (yield from read_python(reading, _PYTHON))
    return (yield from read_bare(reading))


JSON = Dialect((PYTHON_TAG, TOOL_CALLS), _read_marked, read_bare)
LLAMA = Dialect((PYTHON_TAG,), _read_llama, read_bare)
FUNCTOOLS = Dialect(("functools", PYTHON_TAG), _read_marked, read_bare)
