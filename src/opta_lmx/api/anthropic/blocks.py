"""Anthropic's system text and messages, as decoded from JSON, become the core's turns.

A user's tool results become turns of their own before the user's text. Nothing is dropped in
silence: a block that has no meaning here is refused by its dotted name.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from opta_lmx.api.anthropic import wire
from opta_lmx.api.anthropic.signatures import hidden_thinking
from opta_lmx.api.fields import WireModel, validated
from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.codec.normalise import PART_SEPARATOR
from opta_lmx.core.errors import invalid, unsupported
from opta_lmx.core.types import Message, ToolCall

ERROR_MARK = "Error: "
"""Put before the text of a tool result that is an error: templates know no other sign for it."""

_Block = TypeVar("_Block", bound=WireModel)


class _Marked(NamedTuple):
    """A block's text; `mark`: it carries `cache_control`."""

    text: str
    mark: bool


def conversation(messages: Sequence[object], system: str | list[Any] | None) -> tuple[Message, ...]:
    """Check and convert a conversation.

    Args:
        messages: decoded JSON objects, in order.
        system: the system text or its blocks.

    Raises:
        LmxError: `INVALID_REQUEST` for what is malformed, `UNSUPPORTED_PARAMETER` for what is
            well-formed but has no meaning here (images, server tools, a prefilled answer).
    """
    if not messages:
        raise invalid("'messages' must hold at least one message.", param="messages")
    turns = _system(system or "", "system")
    for i, raw in enumerate(messages):
        turns += _turns(raw, f"messages.{i}")
    if not turns:
        raise invalid("'messages' must say something.", param="messages")
    if turns[-1].role == "assistant":
        raise unsupported(
            "Prefilling the answer is not supported: the conversation must end with a user's "
            "message.",
            f"messages.{len(messages) - 1}.role",
        )
    return merge_adjacent(turns)


def _turns(raw: object, at: str) -> list[Message]:
    turn = _read(wire.Turn, raw, at)
    if turn.role == "system":
        return _system(turn.content, f"{at}.content")
    if isinstance(turn.content, str):
        return [Message(turn.role, turn.content)]
    if turn.role == "assistant":
        return [_answer(turn.content, f"{at}.content")]
    return _question(turn.content, f"{at}.content")


def _system(content: str | list[Any], at: str) -> list[Message]:
    """A turn of instructions; without words it would still cost tokens, so there is none."""
    text, anchors = _text(content, at)
    return [Message("system", text, anchors=anchors)] if text.strip() else []


def _question(blocks: list[Any], at: str) -> list[Message]:
    """Tool results first: a template wants them right behind the calls they answer."""
    results: list[Message] = []
    texts: list[_Marked] = []
    for i, raw in enumerate(blocks):
        where = f"{at}.{i}"
        if _kind(raw, where) == "tool_result":
            results.append(_result(_read(wire.ToolResultBlock, raw, where), where))
        else:
            texts.append(_text_of(raw, where))
    if texts or not results:
        text, anchors = _joined(texts)
        results.append(Message("user", text, anchors=anchors))
    return results


def _answer(blocks: list[Any], at: str) -> Message:
    texts: list[_Marked] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for i, raw in enumerate(blocks):
        where = f"{at}.{i}"
        match _kind(raw, where):
            case "text":
                texts.append(_text_of(raw, where))
            case "thinking":
                thinking = _read(wire.ThinkingBlock, raw, where)
                thoughts.append(thinking.thinking or hidden_thinking(thinking.signature))
            case "redacted_thinking":
                _read(wire.RedactedThinkingBlock, raw, where)
            case "tool_use":
                calls.append(_call(_read(wire.ToolUseBlock, raw, where)))
            case other:
                raise _no_block(other, where)
    text, anchors = _joined(texts)
    return Message(
        role="assistant",
        content=text,
        reasoning=PART_SEPARATOR.join(filter(None, thoughts)),
        tool_calls=tuple(calls),
        anchors=anchors,
    )


def _call(block: wire.ToolUseBlock) -> ToolCall:
    return ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode())


def _result(block: wire.ToolResultBlock, at: str) -> Message:
    text, anchors = _text(block.content or "", f"{at}.content")
    if block.cache_control is not None:
        anchors = (*anchors, len(text))
    if block.is_error:
        text = ERROR_MARK + text
        anchors = tuple(len(ERROR_MARK) + anchor for anchor in anchors)
    return Message("tool", text, tool_call_id=block.tool_use_id, anchors=anchors)


def _text(content: str | list[Any], at: str) -> tuple[str, tuple[int, ...]]:
    """The text, and where its marked blocks end."""
    if isinstance(content, str):
        return content, ()
    return _joined([_text_of(raw, f"{at}.{i}") for i, raw in enumerate(content)])


def _joined(texts: Sequence[_Marked]) -> tuple[str, tuple[int, ...]]:
    anchors: list[int] = []
    end = -len(PART_SEPARATOR)
    for one in texts:
        end += len(PART_SEPARATOR) + len(one.text)
        if one.mark:
            anchors.append(end)
    return PART_SEPARATOR.join(one.text for one in texts), tuple(anchors)


def _text_of(raw: object, at: str) -> _Marked:
    """The text of a block outside the assistant's turns."""
    kind = _kind(raw, at)
    if kind == "text":
        block = _read(wire.TextBlock, raw, at)
        return _Marked(block.text, block.cache_control is not None)
    if kind == "document" and not at.startswith("system"):
        return _document(raw, at)
    raise _no_block(kind, at)


def _document(raw: object, at: str) -> _Marked:
    source = _object(_object(raw, at).get("source"), f"{at}.source")
    if source.get("type") != "text":
        raise unsupported("Only documents of plain text are supported.", f"{at}.source")
    document = _read(wire.TextDocumentBlock, raw, at)
    parts = (document.title, document.context, document.source.data)
    text = PART_SEPARATOR.join(part for part in parts if part)
    return _Marked(text, document.cache_control is not None)


def _kind(raw: object, at: str) -> str:
    kind = _object(raw, at).get("type")
    if not isinstance(kind, str):
        raise invalid(f"'{at}.type' must be a string.", param=f"{at}.type")
    return kind


def _read(block: type[_Block], raw: object, at: str) -> _Block:
    return validated(block, _object(raw, at), f"{at}.")


def _object(raw: object, at: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise invalid(f"'{at}' must be an object.", param=at)
    return cast("dict[str, Any]", raw)


def _no_block(kind: str, at: str) -> Exception:
    return unsupported(f"Blocks of type '{kind[:64]}' are not supported here.", f"{at}.type")
