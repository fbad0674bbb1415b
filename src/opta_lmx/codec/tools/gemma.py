"""Gemma: `call:NAME{...}` between marks (FunctionGemma, Gemma 4); Gemma 3 writes code blocks.

Gemma 4 and FunctionGemma write names without quotes and strings between marks of their own.
Gemma 3 knows no tools; asked to use them it writes Hermes' tags, which the default rendering
teaches, or a `tool_code` block of Python.
"""

from opta_lmx.codec.tools import hermes
from opta_lmx.codec.tools.json_calls import read_bare
from opta_lmx.codec.tools.named import NamedRules, close, read_named
from opta_lmx.codec.tools.parser import Dialect, either
from opta_lmx.codec.tools.pythonic import PythonRules, read_python
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends


def _named(opens: str, closes: str, quote: str) -> Dialect:
    rules = NamedRules(
        separators=marks_of("{"),
        ends=Ends(marks_of(closes, opens), marks_of(quote)),
        closers=marks_of(closes),
        before=marks_of("call:"),
    )

    def read(reading: Reading, _mark: str) -> Reads[Outcome]:
        return (yield from read_named(reading, rules))

    return Dialect((opens,), read, strays=(closes,), inner=(quote,))


GEMMA4 = _named("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = _named("<start_function_call>", "<end_function_call>", "<escape>")

_CODE = "```tool_code"
_CODE_RULES = PythonRules(Ends(marks_of("```")))
_CODE_END = marks_of("```")


def _read(reading: Reading, _mark: str) -> Reads[Outcome]:
    outcome = yield from read_python(reading, _CODE_RULES)
    if outcome is Outcome.CALLED and not reading.open:
        yield from close(reading, _CODE_END)
    return outcome


GEMMA3 = either(Dialect((_CODE,), _read, read_bare), hermes.HERMES)
