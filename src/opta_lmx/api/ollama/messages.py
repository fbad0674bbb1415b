"""Ollama's turns become the core's: calls without ids get some, results find their calls."""

from collections.abc import Sequence

import msgspec

from opta_lmx.api.ollama import wire
from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.core.types import Message, ToolCall


def messages(turns: Sequence[wire.Message]) -> tuple[Message, ...]:
    """Convert a conversation; adjacent turns of one role are merged."""
    open_calls: list[ToolCall] = []
    return merge_adjacent(_message(place, turn, open_calls) for place, turn in enumerate(turns))


def _message(place: int, turn: wire.Message, open_calls: list[ToolCall]) -> Message:
    if turn.role == "tool":
        call = _answered(turn, open_calls)
        call_id = turn.tool_call_id or (call.id if call else f"call_{place}")
        name = turn.tool_name or (call.name if call else None)
        return Message("tool", turn.content or "", tool_call_id=call_id, name=name)
    calls = tuple(
        ToolCall(
            call.id or f"call_{place}_{number}",
            call.function.name,
            msgspec.json.encode(call.function.arguments or {}).decode(),
        )
        for number, call in enumerate(turn.tool_calls or ())
    )
    open_calls += calls
    return Message(turn.role, turn.content or "", reasoning=turn.thinking or "", tool_calls=calls)


def _answered(turn: wire.Message, open_calls: list[ToolCall]) -> ToolCall | None:
    """Take the call that a result belongs to: by its id, else its tool's name, else the oldest."""
    for call in open_calls:
        if turn.tool_call_id and call.id == turn.tool_call_id:
            break
    else:
        named = (call for call in open_calls if call.name == turn.tool_name)
        oldest = None if turn.tool_call_id or turn.tool_name else next(iter(open_calls), None)
        found = next(named, oldest)
        if found is None:
            return None
        call = found
    open_calls.remove(call)
    return call
