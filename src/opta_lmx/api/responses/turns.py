"""Items of a conversation become the turns a chat template renders."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from opta_lmx.api.responses import sealed
from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.codec.normalise import PART_SEPARATOR
from opta_lmx.core.types import Message, Role, ToolCall

Json = dict[str, Any]

_RETOLD = "Summary of the conversation so far:"

_SPEAKERS: tuple[Role, Role] = ("user", "assistant")
_ROLES: dict[str, Role] = {"user": "user", "system": "system", "developer": "system"}


def to_messages(instructions: str | None, items: Iterable[Json]) -> tuple[Message, ...]:
    """Join items into turns.

    Thinking, text and calls that follow each other are one turn of the assistant, as it was
    generated; text after calls begins another, for a template writes text before calls.

    Args:
        instructions: a system turn before all.
        items: complete items (`items.read_items`), references resolved.
    """
    turns = [Message("system", instructions)] if instructions else []
    spoken = _Assistant()
    for item in items:
        if _is_assistants(item):
            turns += spoken.take(item)
            continue
        turns += spoken.end()
        turns.append(_turn(item))
    turns += spoken.end()
    return merge_adjacent(turns)


def _is_assistants(item: Json) -> bool:
    kind = item["type"]
    return kind in ("reasoning", "function_call") or (
        kind == "message" and item["role"] == "assistant"
    )


def _turn(item: Json) -> Message:
    if item["type"] == "message":
        return Message(_ROLES[item["role"]], _text_of(item["content"]))
    if item["type"] == "function_call_output":
        output = item["output"]
        text = output if isinstance(output, str) else _text_of(output)
        return Message("tool", text, tool_call_id=item["call_id"])
    compacted = sealed.unseal(item["encrypted_content"], "input")
    assert isinstance(compacted, sealed.Compacted)
    told = f"{_RETOLD}\n{compacted.summary}"
    text = "\n\n".join((*compacted.rules, told))
    return Message("system", text, retold=not compacted.rules)


def _text_of(parts: Sequence[Json]) -> str:
    return PART_SEPARATOR.join(part.get("text") or part.get("refusal") or "" for part in parts)


def thinking_of(item: Json) -> str:
    """The words of a reasoning item: as they were thought, else their summary."""
    for name in ("content", "summary"):
        if item.get(name):
            return _text_of(item[name])
    packed = item.get("encrypted_content")
    if packed is None:
        return ""
    content = sealed.unseal(packed, "input")
    return content.text if isinstance(content, sealed.Thinking) else ""


class _Assistant:
    """One turn of the assistant while its items come."""

    def __init__(self) -> None:
        self._turn: Message | None = None

    def take(self, item: Json) -> list[Message]:
        """Add an item; the turn before, where this one begins another."""
        turn = self._turn
        before: list[Message] = []
        fresh = turn is None
        if turn is not None and _begins_another(turn, item):
            before, fresh = [turn], True
        turn = Message("assistant") if fresh or turn is None else turn
        self._turn = _with(turn, item)
        return before

    def end(self) -> list[Message]:
        """The turn, if there is one."""
        turn, self._turn = self._turn, None
        return [] if turn is None else [turn]


def _begins_another(turn: Message, item: Json) -> bool:
    if item["type"] == "function_call":
        return False
    return bool(turn.tool_calls) or (item["type"] == "reasoning" and bool(turn.content))


def _with(turn: Message, item: Json) -> Message:
    replace = msgspec.structs.replace
    if item["type"] == "reasoning":
        return replace(turn, reasoning=_joined(turn.reasoning, thinking_of(item)))
    if item["type"] == "message":
        return replace(turn, content=_joined(turn.content, _text_of(item["content"])))
    call = ToolCall(item["call_id"], item["name"], item["arguments"])
    return replace(turn, tool_calls=(*turn.tool_calls, call))


def _joined(one: str, other: str) -> str:
    return "\n\n".join(text for text in (one, other) if text)


def droppable(messages: Sequence[Message]) -> int:
    """In how many steps a conversation can be made shorter; see `without_oldest`."""
    return sum(max(0, len(places) - 1) for places in _borders(messages))


def without_oldest(messages: Sequence[Message], count: int) -> tuple[Message, ...]:
    """Leave out the `count` oldest parts of a conversation; rules stay.

    First go turns of the user, each with all that followed it. Then, within the newest, go the
    assistant's rounds of calls with their results, but for the last. What was asked last stays,
    and no call is parted from its result.
    """
    users, rounds = _borders(messages)
    tails = [*users[1:], *rounds[1:]]
    if not 0 < count <= len(tails):
        return tuple(messages)
    kept = tails[count - 1]
    newest = min(users[-1], kept)
    begun = rounds[0] if kept > newest else kept
    left_out = [*messages[users[0] : newest], *messages[begun:kept]]
    rules = [turn for turn in left_out if turn.role == "system"]
    head = [*messages[: users[0]], *rules]
    return merge_adjacent([*head, *messages[newest:begun], *messages[kept:]])


def _borders(messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Where turns of the user begin, and within the newest of them the assistant's rounds."""
    whole = _unparting(messages)
    users, rounds = ([at for at in _places(messages, role) if at in whole] for role in _SPEAKERS)
    newest = max(_places(messages, "user"), default=-1)
    if newest not in whole:
        return users, []
    return users, [at for at in rounds if at > newest]


def _unparting(messages: Sequence[Message]) -> set[int]:
    """Places that no call stands before whose result stands behind."""
    called: dict[str, int] = {}
    answered: dict[int, int] = {}
    for at, turn in enumerate(messages):
        called |= {call.id: at for call in turn.tool_calls}
        if turn.tool_call_id in called:
            answered[called[turn.tool_call_id]] = at
    found: set[int] = set()
    until = -1
    for at in range(len(messages)):
        if until < at:
            found.add(at)
        until = max(until, answered.get(at, -1))
    return found


def _places(messages: Sequence[Message], role: Role) -> list[int]:
    return [place for place, turn in enumerate(messages) if turn.role == role]
