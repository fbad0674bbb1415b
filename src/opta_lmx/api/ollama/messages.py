"""Ollama's turns become the core's: calls without ids get some, results find their calls."""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence

import msgspec

from opta_lmx.api.ollama import wire
from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.core.types import Message, ToolCall


def messages(turns: Sequence[wire.Message]) -> tuple[Message, ...]:
    """Convert a conversation; adjacent turns of one role are merged."""
    open_calls = _OpenCalls()
    return merge_adjacent(_message(place, turn, open_calls) for place, turn in enumerate(turns))


def _message(place: int, turn: wire.Message, open_calls: "_OpenCalls") -> Message:
    if turn.role == "tool":
        call = open_calls.answered(turn)
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
    for call in calls:
        open_calls.add(call)
    return Message(turn.role, turn.content or "", reasoning=turn.thinking or "", tool_calls=calls)


class _OpenCalls:
    """Calls without a result yet, found in constant time: a hostile history holds thousands."""

    def __init__(self) -> None:
        self._added = 0
        self._open: OrderedDict[int, ToolCall] = OrderedDict()
        self._by_id: defaultdict[str, deque[int]] = defaultdict(deque)
        self._by_name: defaultdict[str, deque[int]] = defaultdict(deque)

    def add(self, call: ToolCall) -> None:
        """A call was made."""
        self._added += 1
        self._open[self._added] = call
        self._by_id[call.id].append(self._added)
        self._by_name[call.name].append(self._added)

    def answered(self, turn: wire.Message) -> ToolCall | None:
        """Take the call that a result belongs to: by id, else its tool's name, else the oldest."""
        place = self._first(self._by_id, turn.tool_call_id or "")
        if place is None:
            place = self._first(self._by_name, turn.tool_name or "")
        if place is None and not turn.tool_call_id and not turn.tool_name:
            place = next(iter(self._open), None)
        return None if place is None else self._open.pop(place)

    def _first(self, places: defaultdict[str, deque[int]], key: str) -> int | None:
        """The oldest open one of a key; those answered meanwhile are dropped on the way."""
        waiting = places.get(key)
        while waiting:
            if waiting[0] in self._open:
                return waiting[0]
            waiting.popleft()
        return None
