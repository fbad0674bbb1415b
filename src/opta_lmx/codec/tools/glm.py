"""GLM 4.5 and later: `<tool_call>NAME`, then pairs of `<arg_key>` and `<arg_value>` tags."""

from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.tagged import TagRules, read_tagged


def rules(prefix: str = "") -> TagRules:
    """The tags, with what a relative of the family puts before their names."""
    key, close = f"<{prefix}arg_key>", f"</{prefix}tool_call>"
    return TagRules(
        name_ends=marks_of("\n", key, close),
        kept=frozenset((key, close)),
        key=marks_of(key),
        key_ends=marks_of(f"</{prefix}arg_key>"),
        value=marks_of(f"<{prefix}arg_value>"),
        value_ends=marks_of(f"</{prefix}arg_value>"),
        closers=marks_of(close),
    )


RULES = rules()
_LONGCAT = rules("longcat_")


def _read_longcat(reading: Reading, _mark: str) -> Reads[Outcome]:
    return (yield from read_tagged(reading, _LONGCAT))


LONGCAT = Dialect(("<longcat_tool_call>",), _read_longcat, strays=("</longcat_tool_call>",))
