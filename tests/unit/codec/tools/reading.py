"""Runs a dialect's parser over a text, cut as asked."""

import msgspec

from opta_lmx.codec.tools.dialects import parser_for
from opta_lmx.codec.tools.protocol import TextOut, ToolOut


class Reading(msgspec.Struct, frozen=True):
    """What came out: the text without the calls, the calls, and how many were beyond reading."""

    text: str
    calls: tuple[tuple[str, str], ...]
    failures: int


def read(dialect: str, pieces: list[str], *, truncated: bool = False) -> Reading:
    """Feed `pieces` and collect everything."""
    parser = parser_for(dialect)
    out: list[ToolOut] = []
    for piece in pieces:
        out += parser.feed(piece)
    out += parser.finish(truncated=truncated)
    texts = [item.text for item in out if isinstance(item, TextOut)]
    calls = [(item.name, item.arguments) for item in out if not isinstance(item, TextOut)]
    return Reading("".join(texts), tuple(calls), parser.parse_failures)
