"""What an answer is made of as it arrives: thinking, text, and tool calls in pieces."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from opta_lmx.core.types import ToolCall

FinishKind = Literal["stop", "length", "tool_calls"]
"""OpenAI's finish_reason; every dialect derives its own word from it."""


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the model's thinking; never empty."""

    text: str


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the answer's text; never empty."""

    text: str


class CallStart(msgspec.Struct, frozen=True, gc=False):
    """A tool call begins; `index` counts the calls of this answer from 0."""

    index: int
    id: str
    name: str


class CallArguments(msgspec.Struct, frozen=True, gc=False):
    """More of the JSON text of the arguments of call `index`; never empty.

    The pieces of one call follow its `CallStart` before the next call starts.
    """

    index: int
    text: str


Delta = ReasoningDelta | TextDelta | CallStart | CallArguments


class Collected(msgspec.Struct, frozen=True):
    """A whole answer."""

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]


def collect(deltas: Iterable[Delta]) -> Collected:
    """Join the pieces of an answer that is sent whole."""
    texts: list[str] = []
    thoughts: list[str] = []
    starts: list[CallStart] = []
    arguments: dict[int, list[str]] = {}
    for delta in deltas:
        match delta:
            case TextDelta():
                texts.append(delta.text)
            case ReasoningDelta():
                thoughts.append(delta.text)
            case CallStart():
                starts.append(delta)
                arguments[delta.index] = []
            case CallArguments():
                arguments[delta.index].append(delta.text)
    calls = (ToolCall(call.id, call.name, "".join(arguments[call.index])) for call in starts)
    return Collected("".join(texts), "".join(thoughts), tuple(calls))
