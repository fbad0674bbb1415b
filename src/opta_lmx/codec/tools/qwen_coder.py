"""Qwen's coders, and others in their manner: a tag for the function, a tag a parameter.

`<tool_call>`, then `<function=NAME>`, then `<parameter=KEY>` and the value on lines of its own
(or without line breaks: Seed, MiMo), `</parameter>`, `</function>`, `</tool_call>`. The outer
tags are often forgotten.
"""

from opta_lmx.codec.tools.named import close
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.tagged import TagRules, read_tagged

FUNCTION = "<function="

RULES = TagRules(
    name_ends=marks_of(">"),
    key=marks_of("<parameter="),
    key_ends=marks_of(">"),
    value_ends=marks_of("</parameter>"),
    closers=marks_of("</function>"),
    padded=True,
)
_FUNCTION = marks_of(FUNCTION)


def in_tags(opens: str, closes: str) -> Dialect:
    """This form between two marks."""
    closing = marks_of(closes)

    def read(reading: Reading, mark: str) -> Reads[Outcome]:
        source = reading.source
        if mark != FUNCTION:
            yield from source.blank()
            if not (yield from source.accept(_FUNCTION)):
                return Outcome.BROKEN
        outcome = yield from read_tagged(reading, RULES)
        if outcome is Outcome.CALLED and not reading.open:
            yield from close(reading, closing)
        return outcome

    return Dialect((opens, FUNCTION), read, strays=(closes,))


SEED = in_tags("<seed:tool_call>", "</seed:tool_call>")
