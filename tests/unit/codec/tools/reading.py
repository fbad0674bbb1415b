"""Runs a dialect's parser over a text, cut as asked."""

import msgspec

from opta_lmx.codec.tools.dialects import parser_for
from opta_lmx.codec.tools.protocol import CallBegin, CallEnd, CallText, TextOut, ToolOut
from opta_lmx.core.types import Tool


class Reading(msgspec.Struct, frozen=True):
    """What came out.

    The text without the calls, the complete calls, how many were beyond reading, and the one
    that was cut.
    """

    text: str
    calls: tuple[tuple[str, str], ...]
    failures: int
    cut: tuple[str, str] | None = None


def read(
    dialect: str, pieces: list[str], *, truncated: bool = False, tools: tuple[Tool, ...] = ()
) -> Reading:
    """Feed `pieces` and collect everything."""
    parser = parser_for(dialect, tools)
    out: list[ToolOut] = []
    for piece in pieces:
        out += parser.feed(piece)
    return gather(out + parser.finish(truncated=truncated), parser.parse_failures)


def gather(out: list[ToolOut], failures: int) -> Reading:
    """Join what a parser returned."""
    texts: list[str] = []
    calls: list[tuple[str, str]] = []
    name: str | None = None
    parts: list[str] = []
    for item in out:
        match item:
            case CallBegin():
                assert name is None
                name, parts = item.name, []
            case CallText():
                assert name is not None
                assert item.text
                parts.append(item.text)
            case CallEnd():
                assert name is not None
                calls.append((name, "".join(parts)))
                name = None
            case _:
                assert name is None
                assert isinstance(item, TextOut)
                texts.append(item.text)
    cut = None if name is None else (name, "".join(parts))
    return Reading("".join(texts), tuple(calls), failures, cut)
