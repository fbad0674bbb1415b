"""The default rendering of tools, for chat templates that know none: Hermes' tags in plain text.

Schemas become system text, calls become assistant text, results become user turns, so any
template that can hold a conversation can hold one with tools.
"""

from collections.abc import Sequence

import msgspec

from opta_lmx.codec.merging import SEPARATOR, merge_adjacent
from opta_lmx.core.types import Message, Tool, ToolCall

_BEFORE = """\
# Tools

These functions are available to you, one JSON description per line:
<tools>
"""
_AFTER = """
</tools>

When a function would help, call it: write its name and arguments as one JSON object between \
tool_call tags, exactly like this, once for each call:
<tool_call>
{"name": "the_function", "arguments": {"the_parameter": "its value"}}
</tool_call>
The results come back to you between <tool_response> and </tool_response>. \
When no function is needed, answer in plain text."""


def with_default_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """Return a conversation without tool turns that says the same.

    The tools' description follows the text of a leading system turn, or becomes one: first
    come the parts that all turns of a conversation share. Without `tools`, earlier calls and
    results are still rendered. Turns that become neighbours of one role are merged.
    """
    turns = [_plain(message) for message in messages]
    if not tools:
        return merge_adjacent(turns)
    text = _describe(tools)
    if turns and turns[0].role == "system":
        first = turns.pop(0)
        content = SEPARATOR.join(part for part in (first.content, text) if part)
        turns.insert(0, msgspec.structs.replace(first, content=content))
    else:
        turns.insert(0, Message("system", text))
    return merge_adjacent(turns)


def _describe(tools: Sequence[Tool]) -> str:
    return _BEFORE + "\n".join(_schema(tool) for tool in tools) + _AFTER


def _schema(tool: Tool) -> str:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return msgspec.json.encode({"type": "function", "function": function}).decode()


def _plain(message: Message) -> Message:
    if message.role == "tool":
        text = f"<tool_response>\n{message.content}\n</tool_response>"
        return Message("user", text)
    if not message.tool_calls:
        return message
    parts = [message.content, *(_call(call) for call in message.tool_calls)]
    content = "\n".join(part for part in parts if part)
    return msgspec.structs.replace(message, content=content, tool_calls=())


def _call(call: ToolCall) -> str:
    name = msgspec.json.encode(call.name).decode()
    arguments = call.arguments if _is_json(call.arguments) else _quoted(call.arguments)
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return False
    return True
