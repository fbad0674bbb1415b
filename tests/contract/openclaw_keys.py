"""Every body key and header that OpenClaw was seen to send, by the mode it speaks in."""

from typing import Any, NamedTuple

Json = dict[str, Any]


class Mode(NamedTuple):
    """One of the interfaces OpenClaw may be told to use.

    Attributes:
        path: what it posts to.
        headers: it sends, with typical values.
        body: what is in every request, without the model.
        also: what its settings add, one by one.
    """

    path: str
    headers: dict[str, str]
    body: Json
    also: tuple[Json, ...]


SESSION = "3f1c9a52-6a0e-4f5e-9d57-0a1b2c3d4e5f:0"
COMMON = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
STAINLESS = {
    "User-Agent": "OpenAI/JS 7.15.0",
    "Authorization": "Bearer sk-anything",
    "x-stainless-retry-count": "0",
    "x-stainless-lang": "js",
    "x-stainless-package-version": "7.15.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "node",
    "x-stainless-runtime-version": "v26.10.0",
    "x-stainless-timeout": "300",
}
AFFINITY = {
    "session_id": SESSION,
    "x-client-request-id": SESSION,
    "x-session-affinity": SESSION,
    "x-openclaw-session-id": "s",
    "x-openclaw-session-key": "agent:main:main",
    "x-openclaw-turn-id": "t",
    "x-openclaw-turn-attempt": "1",
    "X-Tenant": "whatever the owner configured",
}
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "minLength": 1, "maxLength": 64},
        "kind": {"enum": ["a", "b"], "type": "string"},
        "may": {"type": "boolean", "const": True},
        "env": {"type": "object", "patternProperties": {"^.*$": {}}},
        "most": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        "list": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
    },
    "required": ["path"],
}
READ: Json = {"name": "read", "description": "Read a file.", "parameters": SCHEMA}
SHARED: tuple[Json, ...] = (
    {"prompt_cache_key": SESSION},
    {"prompt_cache_key": SESSION, "prompt_cache_retention": "24h"},
    {"include": ["reasoning.encrypted_content"]},
    {"reasoning": {"effort": "medium", "summary": "auto"}},
    {"client_metadata": {"origin": "gateway"}},
    {"metadata": {"origin": "gateway"}},
    {"tool_choice": "auto"},
    {"store": False},
    {"service_tier": "auto"},
)

CHAT_BODY: Json = {
    "messages": [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "callfake1",
                    "type": "function",
                    "function": {"name": "read", "arguments": '{"path":"a"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "callfake1", "content": "text"},
        {"role": "user", "content": [{"type": "text", "text": "carrier"}]},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [{"type": "function", "function": READ}],
    "tool_choice": "auto",
    "max_completion_tokens": 3,
}
COMPLETIONS = Mode(
    "/v1/chat/completions",
    COMMON | STAINLESS | AFFINITY,
    CHAT_BODY,
    (
        *SHARED,
        {"reasoning_effort": "medium"},
        {"thinking": {"type": "disabled"}},
        {"max_tokens": 3},
        {"stream": False, "stream_options": None},
        {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]},
    ),
)
LMSTUDIO = COMPLETIONS._replace(headers=COMMON | {"Authorization": "Bearer lm-studio"})
"""The same calls, with the instance's id as the model."""

RESPONSES = Mode(
    "/v1/responses",
    COMMON | STAINLESS | AFFINITY,
    {
        "input": [
            {
                "type": "message",
                "role": "system",
                "content": [{"type": "input_text", "text": "You help."}],
            },
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "hello"}],
            },
            {
                "type": "function_call",
                "call_id": "call_fake_1",
                "name": "read",
                "arguments": '{"path":"a"}',
            },
            {"type": "function_call_output", "call_id": "call_fake_1", "output": "text"},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "done", "annotations": []}],
            },
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "carrier"}],
            },
        ],
        "stream": True,
        "max_output_tokens": 3,
        "tools": [{"type": "function", **READ}],
        "store": False,
    },
    (*SHARED, {"instructions": "You help."}, {"tools": [{"type": "function", **READ}]}),
)
MARK: Json = {"type": "ephemeral"}
MESSAGES = Mode(
    "/v1/messages",
    COMMON
    | AFFINITY
    | {
        "User-Agent": "undici",
        "x-api-key": "sk-anything",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "fine-grained-tool-streaming-2025-05-14",
        "anthropic-dangerous-direct-browser-access": "true",
    },
    {
        "system": [
            {"type": "text", "text": "You help.", "cache_control": MARK},
            {"type": "text", "text": "Today."},
        ],
        "messages": [
            {"role": "user", "content": "hello"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "so"},
                    {"type": "tool_use", "id": "toolufake1", "name": "read", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolufake1", "content": "text"}
                ],
            },
            {
                "role": "user",
                "content": [{"type": "text", "text": "carrier", "cache_control": MARK}],
            },
        ],
        "max_tokens": 3,
        "stream": True,
        "tools": [{"name": "read", "description": "Read.", "input_schema": SCHEMA}],
    },
    (
        {"thinking": {"type": "disabled"}},
        {"stream": False},
        {"metadata": {"user_id": "u"}},
        {"tool_choice": {"type": "auto"}},
        {"system": [{"type": "text", "text": "x", "cache_control": {**MARK, "ttl": "1h"}}]},
    ),
)
MODES = {
    "openai-completions": COMPLETIONS,
    "openai-responses": RESPONSES,
    "anthropic-messages": MESSAGES,
    "lmstudio": LMSTUDIO,
}
