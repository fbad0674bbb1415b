"""Turns as templates want them: OpenAI-shaped dictionaries, and merging for strict templates."""

import hashlib
import json
import string
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from opta_lmx.codec.merging import SEPARATOR, merge_adjacent
from opta_lmx.core.types import Message, Tool, ToolCall

_ALPHANUMERIC = string.ascii_letters + string.digits
_SHORT_ID = 9


class Arguments(dict[str, Any]):
    """A tool call's arguments: an object to templates that look inside, JSON text when printed.

    Published templates disagree on whether arguments are an object (`arguments | tojson`) or
    text (`'...' + arguments`); this value serves both.
    """

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


def message_dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as OpenAI-shaped dictionaries; absent fields are left out.

    A tool result without a name takes that of the call it answers.
    """
    names: dict[str, str] = {}
    turns: list[dict[str, Any]] = []
    for message in messages:
        names.update({call.id: call.name for call in message.tool_calls})
        turns.append(_message_dict(message, names))
    return turns


def tool_dicts(tools: Iterable[Tool]) -> list[dict[str, Any]] | None:
    """Return tools in OpenAI's shape, or None when there are none, as templates test for it."""
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in tools
    ]
    return [{"type": "function", "function": function} for function in functions] or None


def merge_turns(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation that alternates: system text is the user's, neighbours are joined.

    Nothing is lost: each system turn joins the user's turn beside it, in place.
    """
    as_users = (
        msgspec.structs.replace(turn, role="user") if turn.role == "system" else turn
        for turn in messages
    )
    return list(merge_adjacent(as_users))


def fold_after_tools(messages: Sequence[Message]) -> list[Message]:
    """Move a user's words that follow a tool result directly into that result.

    Some templates count a tool exchange as the user's half of a round and refuse a user turn
    after it. The words keep their place and lose rank, never the other way round.
    """
    folded: list[Message] = []
    for message in messages:
        if message.role == "user" and folded and folded[-1].role == "tool":
            folded[-1] = _joined(folded[-1], message.content)
        else:
            folded.append(message)
    return folded


def short_call_ids(messages: Sequence[Message]) -> list[Message]:
    """Give calls and their results ids of nine letters and digits: Mistral's templates demand it.

    The same id becomes the same everywhere, so the prompts of a conversation share their prefix.
    """
    return [
        msgspec.structs.replace(
            turn,
            tool_calls=tuple(
                msgspec.structs.replace(call, id=_short_id(call.id)) for call in turn.tool_calls
            ),
            tool_call_id=None if turn.tool_call_id is None else _short_id(turn.tool_call_id),
        )
        for turn in messages
    ]


def _short_id(given: str) -> str:
    if len(given) == _SHORT_ID and given.isascii() and given.isalnum():
        return given
    digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
    return "".join(_ALPHANUMERIC[byte % len(_ALPHANUMERIC)] for byte in digest[:_SHORT_ID])


def single_calls(messages: Sequence[Message]) -> list[Message]:
    """Give every call a turn of its own, its results behind it.

    Some templates show the first call of a turn only, or refuse a turn with more.
    """
    turns: list[Message] = []
    waiting: list[Message] = []
    for turn in messages:
        if turn.role == "tool" and waiting:
            _place(turn, turns, waiting)
            continue
        turns += waiting
        waiting = []
        if len(turn.tool_calls) < 2:
            turns.append(turn)
            continue
        first, *others = turn.tool_calls
        turns.append(msgspec.structs.replace(turn, tool_calls=(first,)))
        waiting = [Message("assistant", "", tool_calls=(c,), name=turn.name) for c in others]
    return turns + waiting


def _place(result: Message, turns: list[Message], waiting: list[Message]) -> None:
    """Put a result behind its call, and with it the calls up to that one."""
    ids = [turn.tool_calls[0].id for turn in waiting]
    reached = ids.index(result.tool_call_id) + 1 if result.tool_call_id in ids else 0
    turns += waiting[:reached]
    del waiting[:reached]
    turns.append(result)


def _message_dict(message: Message, names: dict[str, str]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    name = message.name
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
        if not (message.content and message.tool_calls):
            # Harmony's templates read it by this name, and refuse it beside text and calls.
            turn["thinking"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [_call_dict(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
        name = name or names.get(message.tool_call_id)
    if name is not None:
        turn["name"] = name
    return turn


def _call_dict(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _arguments(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(text: str) -> Arguments | str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return Arguments(cast("dict[str, Any]", value)) if isinstance(value, dict) else text


def _joined(message: Message, more: str) -> Message:
    content = SEPARATOR.join(part for part in (message.content, more) if part)
    return msgspec.structs.replace(message, content=content)
