"""The Hermes and Qwen dialect: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

Also read, between the same tags, are the forms of Qwen's coders and of GLM: fine-tuned models
keep the tags of their family and change what stands between them. Some put all calls between
`<tool_calls>` tags.
"""

import msgspec

from opta_lmx.codec.tools import glm, qwen_coder
from opta_lmx.codec.tools.named import close
from opta_lmx.codec.tools.objects import ObjectRules, read_objects
from opta_lmx.codec.tools.parser import Dialect
from opta_lmx.codec.tools.reading import Outcome, Reading
from opta_lmx.codec.tools.source import Reads, marks_of
from opta_lmx.codec.tools.strings import Ends
from opta_lmx.codec.tools.tagged import read_tagged

OPEN = "<tool_call>"
CLOSE = "</tool_call>"

_OPEN = marks_of(OPEN)
_CLOSE = marks_of(CLOSE)
_ENDS = Ends(marks_of(CLOSE, OPEN), opens=frozenset((OPEN,)))
_RULES = ObjectRules(_ENDS, bare_name=True)
_FUNCTION = marks_of("<function=")


def tagged_objects(opens: str, closes: str, *, keyed: bool = False) -> Dialect:
    """A dialect of JSON objects between two marks; `closes` may be empty."""
    ends = Ends(marks_of(opens, closes), opens=frozenset((opens,)))
    rules = ObjectRules(ends, bare_name=not keyed, keyed=keyed)
    closing = marks_of(closes)

    def read(reading: Reading, _mark: str) -> Reads[Outcome]:
        outcome = yield from read_objects(reading, rules)
        if outcome is Outcome.CALLED and not reading.open:
            yield from close(reading, closing)
        return outcome

    return Dialect((opens,), read, strays=(closes,) if closes else ())


def _read(reading: Reading, mark: str) -> Reads[Outcome]:
    source = reading.source
    yield from source.blank()
    if mark != OPEN and (yield from source.accept(_OPEN)):
        yield from source.blank()
    char = yield from source.peek()
    if char == "<" and (yield from source.accept(_FUNCTION)):
        outcome = yield from read_tagged(reading, qwen_coder.RULES)
    elif char and (char.isalpha() or char == "_"):
        outcome = yield from read_tagged(reading, glm.RULES)
    else:
        outcome = yield from read_objects(reading, _RULES)
    if outcome is Outcome.CALLED and not reading.open:
        yield from close(reading, _CLOSE)
    return outcome


HERMES = Dialect((OPEN, "<tool_calls>"), _read, strays=(CLOSE, "</tool_calls>"))
NEMOTRON = tagged_objects("<TOOLCALL>", "</TOOLCALL>")
JAMBA = tagged_objects("<tool_calls>", "</tool_calls>")
LONGCAT_FLASH = tagged_objects("<longcat_tool_call>", "</longcat_tool_call>")
APERTUS = tagged_objects("<|tools_prefix|>", "<|tools_suffix|>", keyed=True)
COHERE = tagged_objects("<|START_ACTION|>", "<|END_ACTION|>")
PHI = tagged_objects("<|tool_call|>", "<|/tool_call|>")
# Granite 3 ends its calls with the answer; its older coders repeat the mark before each.
GRANITE = msgspec.structs.replace(
    tagged_objects("<|tool_call|>", ""), opens=("<|tool_call|>", "<function_call>")
)
