"""Dialects of Python calls: bare in a list (Llama 4), or between marks (LFM2, OLMo, MiniCPM)."""

from opta_lmx.codec.tools.json_calls import PYTHON_TAG, read_bare
from opta_lmx.codec.tools.named import close
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.pythonic import PythonRules, read_python
from opta_lmx.codec.tools.reading import WINDOW, Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends

_BARE = PythonRules(Ends(marks_of()), certain=False)
_PYTHON_START, _PYTHON_END = "<|python_start|>", "<|python_end|>"

_END = marks_of(_PYTHON_END)


def _between(opens: str, closes: str) -> Dialect:
    rules = PythonRules(Ends(marks_of(closes)))
    closing = marks_of(closes)

    def read(reading: Reading, _mark: str) -> Reads[Outcome]:
        outcome = yield from read_python(reading, rules)
        if outcome is Outcome.CALLED and not reading.open:
            yield from close(reading, closing)
        return outcome

    return Dialect((opens,), read, strays=(closes,))


def _read_bare(reading: Reading) -> Reads[Outcome]:
    """A list of Python calls, or else JSON."""
    source = reading.source
    lead = yield from source.blank(WINDOW)
    if len(lead) == WINDOW or (yield from source.peek()) != "[":
        return (yield from read_bare(reading))
    while len(source.text) - source.at < 2 and (yield from source.more()):
        pass
    following = source.text[source.at + 1 : source.at + 2]
    if following.isalpha() or following == "_":
        return (yield from read_python(reading, _BARE))
    return (yield from read_bare(reading))


def _read_marked(reading: Reading, _mark: str) -> Reads[Outcome]:
    yield from reading.source.accept(_END)
    return (yield from _read_bare(reading))


PYTHONIC = Dialect((_PYTHON_START, PYTHON_TAG), _read_marked, _read_bare, strays=(_PYTHON_END,))
LFM2 = _between("<|tool_call_start|>", "<|tool_call_end|>")
OLMO = _between("<function_calls>", "</function_calls>")
