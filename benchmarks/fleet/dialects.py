"""A request of the script as each of OpenClaw's three dialects puts it on the wire."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from benchmarks.fleet.script import Ask, Dialect, Json, Turn

PATHS: dict[Dialect, str] = {
    "completions": "/chat/completions",
    "responses": "/responses",
    "messages": "/messages",
}
"""Below the `/v1` of the server."""


class Caller(msgspec.Struct, frozen=True):
    """Who sends: the key, the client's own name for itself, and the lane it asks for."""

    key: str = ""
    client: str = ""
    lane: str = ""


def headers_of(ask: Ask, caller: Caller) -> dict[str, str]:
    """The headers OpenClaw sends in that dialect, and those that a provider entry may add."""
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if ask.dialect == "messages":
        headers |= {"x-api-key": caller.key, "anthropic-version": "2023-06-01"}
    else:
        headers |= {"Authorization": f"Bearer {caller.key}", "session_id": ask.session}
        headers["x-session-affinity"] = ask.session
    if caller.client:
        headers["X-Client-ID"] = caller.client
    if caller.lane:
        headers["X-Serving-Lane"] = caller.lane
    return headers


def body_of(ask: Ask, model: str, *, plain: bool = False) -> Json:
    """The body; `plain` leaves out what servers other than this one may refuse."""
    body = {"model": model, "stream": True, **_WRITERS[ask.dialect](ask)}
    if not plain and ask.dialect != "messages":
        body["prompt_cache_key"] = ask.session
    return body


def _completions(ask: Ask) -> Json:
    messages: list[Json] = [{"role": "system", "content": ask.system}] if ask.system else []
    messages += map(_chat_message, ask.turns)
    if ask.tail:
        messages.append({"role": "user", "content": [{"type": "text", "text": ask.tail}]})
    body: Json = {
        "messages": messages,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": ask.max_tokens,
    }
    if ask.tools:
        body["tool_choice"] = "auto"
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                },
            }
            for tool in ask.tools
        ]
    return body


def _chat_message(turn: Turn) -> Json:
    if turn.call is not None:
        function = {"name": turn.call.name, "arguments": json.dumps(turn.call.arguments)}
        calls = [{"id": turn.call.id, "type": "function", "function": function}]
        return {"role": "assistant", "content": None, "tool_calls": calls}
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.call_id, "content": turn.text}
    return {"role": turn.role, "content": turn.text}


def _responses(ask: Ask) -> Json:
    items: list[Json] = []
    if ask.system:
        items.append(_item("system", ask.system))
    items += map(_response_item, ask.turns)
    if ask.tail:
        items.append(_item("user", ask.tail))
    body: Json = {"input": items, "max_output_tokens": ask.max_tokens, "store": False}
    if ask.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            }
            for tool in ask.tools
        ]
    return body


def _item(role: str, text: str) -> Json:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def _response_item(turn: Turn) -> Json:
    if turn.call is not None:
        return {
            "type": "function_call",
            "call_id": turn.call.id,
            "name": turn.call.name,
            "arguments": json.dumps(turn.call.arguments),
        }
    if turn.role == "tool":
        return {"type": "function_call_output", "call_id": turn.call_id, "output": turn.text}
    if turn.role == "assistant":
        content = [{"type": "output_text", "text": turn.text, "annotations": []}]
        return {"type": "message", "role": "assistant", "content": content}
    return _item("user", turn.text)


def _messages(ask: Ask) -> Json:
    last = {"cache_control": {"type": "ephemeral"}}
    body: Json = {
        "max_tokens": ask.max_tokens,
        "messages": [*_blocks(ask), _user([{"type": "text", "text": ask.tail}])],
        "system": [
            {"type": "text", "text": ask.stable, **last},
            {"type": "text", "text": ask.dynamic},
        ],
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.parameters,
            }
            for tool in ask.tools
        ],
    }
    return body


def _user(content: Any) -> Json:
    return {"role": "user", "content": content}


def _blocks(ask: Ask) -> Iterator[Json]:
    for place, turn in enumerate(ask.turns):
        if turn.call is not None:
            call = turn.call
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            yield {"role": "assistant", "content": [block]}
        elif turn.role == "tool":
            result = {"type": "tool_result", "tool_use_id": turn.call_id, "content": turn.text}
            yield _user([result])
        elif turn.role == "assistant":
            yield {"role": "assistant", "content": [{"type": "text", "text": turn.text}]}
        elif place == len(ask.turns) - 1:
            # Only the newest words carry the mark; older ones become plain strings.
            mark = {"type": "ephemeral"}
            yield _user([{"type": "text", "text": turn.text, "cache_control": mark}])
        else:
            yield _user(turn.text)


_WRITERS: dict[Dialect, Callable[[Ask], Json]] = {
    "completions": _completions,
    "responses": _responses,
    "messages": _messages,
}
