"""Anthropic's messages and their counting, field by field."""

from typing import Any

from tests.contract.matrix import common
from tests.contract.matrix.model import (
    Row,
    Surface,
    accepted,
    nested,
    refused,
    supported,
    with_parts,
    without,
)

USER: dict[str, Any] = {"role": "user", "content": "hi"}
MARK: dict[str, Any] = {"type": "ephemeral", "ttl": "5m"}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "Of a city.",
    "input_schema": common.CITY,
}
TEXT: dict[str, Any] = {"type": "text", "text": "hi"}
DOCUMENT: dict[str, Any] = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
}
FORMAT: dict[str, Any] = {"type": "json_schema", "schema": common.OK}
MARKS = ("cache_control.type", "cache_control.ttl")


def _blocks(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*blocks]}]}


def _said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": [*blocks]}, USER]}


def _tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{**WEATHER, **fields}]}


CALL: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "a"}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "t1", "content": "sun"}


def _after_call(**fields: Any) -> dict[str, Any]:
    turn = {"role": "user", "content": [{**RESULT, **fields}]}
    return {"messages": [USER, {"role": "assistant", "content": [CALL]}, turn]}


CONVERSATION: tuple[Row, ...] = (
    supported("messages", [USER], "Adjacent turns of one role are joined; the last is a user's."),
    nested("messages.role", "supported", "`user`, `assistant`; `system` too.", messages=[USER]),
    with_parts(
        nested("messages.content", "supported", "A string or blocks.", **_blocks(TEXT)),
        *("type", "text"),
    ),
    with_parts(
        nested(
            "messages.content.cache_control",
            "supported",
            (
                "Models whose caches cannot be cut to any length keep the prompt up to a mark "
                "before anything else; elsewhere every prefix is found, marked or not. The time "
                "is not promised: what is kept stays as long as there is room."
            ),
            **_blocks({**TEXT, "cache_control": MARK}),
        ),
        *("type", "ttl"),
    ),
    nested(
        "messages.content.citations",
        "refused",
        "Only empty: the model does not cite.",
        **_blocks({**TEXT, "citations": [{"type": "char_location"}]}),
    ),
    nested("messages.content.tool_use", "supported", "A call made before.", **_said(CALL)),
    nested("messages.content.id", "supported", "Of a call.", **_said(CALL)),
    nested("messages.content.name", "supported", "Of the called tool.", **_said(CALL)),
    nested("messages.content.input", "supported", "Of the called tool.", **_said(CALL)),
    nested("messages.content.tool_use_id", "supported", "Which call is answered.", **_after_call()),
    with_parts(
        nested(
            "messages.content.content",
            "supported",
            "Of a tool result: a string, text, or documents of text.",
            **_after_call(content=[TEXT]),
        ),
        *("type", "text", "cache_control", *MARKS, "title", "context"),
        *("source", "source.type", "source.media_type", "source.data"),
    ),
    nested(
        "messages.content.is_error",
        "supported",
        "`Error: ` is put before the text.",
        **_after_call(is_error=True),
    ),
    nested(
        "messages.content.caller",
        "accepted",
        "Only the model itself (`direct`).",
        **_said({**CALL, "caller": {"type": "direct"}}),
    ),
    nested(
        "messages.content.thinking",
        "supported",
        "Earlier thinking, for templates that want it back.",
        **_said({"type": "thinking", "thinking": "hm", "signature": ""}, TEXT),
    ),
    nested(
        "messages.content.signature",
        "supported",
        "Carries the thinking where `display` is `omitted`; else not looked at.",
        **_said({"type": "thinking", "thinking": "hm", "signature": "s"}, TEXT),
    ),
    nested(
        "messages.content.data",
        "accepted",
        "Of `redacted_thinking`: nothing of it reaches the prompt.",
        **_said({"type": "redacted_thinking", "data": "x"}, TEXT),
    ),
    with_parts(
        nested(
            "messages.content.source",
            "supported",
            "Of a document: plain text only.",
            **_blocks(DOCUMENT),
        ),
        *("type", "media_type", "data"),
    ),
    nested(
        "messages.content.title",
        "supported",
        "Of a document.",
        **_blocks({**DOCUMENT, "title": "t", "context": "c"}),
    ),
    nested(
        "messages.content.context",
        "supported",
        "Of a document.",
        **_blocks({**DOCUMENT, "context": "c"}),
    ),
    nested(
        "messages.content.image",
        "refused",
        common.PICTURES,
        **_blocks({"type": "image", "source": {"type": "base64", "data": ""}}),
    ),
    with_parts(
        supported("system", [{**TEXT, "cache_control": MARK}], "A string or text blocks."),
        *("type", "text", "cache_control", *MARKS),
    ),
    nested(
        "system.citations",
        "refused",
        "Only empty: the model does not cite.",
        system=[{**TEXT, "citations": [{"type": "char_location"}]}],
    ),
    with_parts(
        accepted("cache_control", MARK, "What is kept does not depend on it."),
        *("type", "ttl"),
    ),
)

TOOLS: tuple[Row, ...] = (
    with_parts(
        supported("tools", [WEATHER], "Up to 256 that the client runs; server tools are refused."),
        *("name", "description", "input_schema", "type"),
        *("input_schema.type", "input_schema.properties", "input_schema.required"),
    ),
    nested("tools.strict", "supported", "Input is held to the schema.", **_tool(strict=True)),
    nested(
        "tools.input_examples",
        "supported",
        "Shown to the model below the description.",
        **_tool(input_examples=[{"city": "Rome"}]),
    ),
    nested(
        "tools.eager_input_streaming",
        "accepted",
        "Input is streamed as it is generated, whichever is said.",
        **_tool(eager_input_streaming=True),
    ),
    with_parts(
        nested(
            "tools.cache_control",
            "accepted",
            "Where tools stand in a prompt is the template's choice.",
            **_tool(cache_control=MARK),
        ),
        *("type", "ttl"),
    ),
    nested(
        "tools.defer_loading",
        "refused",
        "Only false: there is no tool search.",
        **_tool(defer_loading=True),
    ),
    nested(
        "tools.allowed_callers",
        "accepted",
        "Only `direct`.",
        **_tool(allowed_callers=["direct"]),
    ),
    with_parts(
        nested(
            "tool_choice",
            "supported",
            "`auto`, `any`, `none`, or one `tool`.",
            **_tool(),
            tool_choice={"type": "none"},
        ),
        "type",
    ),
    nested(
        "tool_choice.name",
        "supported",
        "The tool that is called.",
        **_tool(),
        tool_choice={"type": "tool", "name": "weather"},
        max_tokens=48,
    ),
    nested(
        "tool_choice.disable_parallel_tool_use",
        "supported",
        "The answer ends after its first call.",
        **_tool(),
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    ),
)

OUTPUT: tuple[Row, ...] = (
    with_parts(
        supported("thinking", {"type": "disabled"}, "To the template as `enable_thinking`."),
        "type",
    ),
    nested(
        "thinking.budget_tokens",
        "supported",
        "To the template as `thinking_budget`; `max_tokens` bounds both together.",
        thinking={"type": "enabled", "budget_tokens": 1024},
        max_tokens=1025,
        stop_sequences=["e", "a", "o", "i", "t"],
    ),
    nested(
        "thinking.display",
        "supported",
        "`omitted`: thinking is inside its block's signature only.",
        thinking={"type": "adaptive", "display": "omitted"},
    ),
    supported("output_config", {"effort": "low"}, "How the answer is written."),
    nested(
        "output_config.effort",
        "supported",
        "To the template as `reasoning_effort`.",
        output_config={"effort": "high"},
    ),
    with_parts(
        nested(
            "output_config.format",
            "supported",
            "JSON of this schema, enforced while it is generated.",
            output_config={"format": FORMAT},
        ),
        *("type", "schema"),
    ),
    nested(
        "output_config.task_budget",
        "refused",
        "There is no budget over several calls.",
        output_config={"task_budget": {"type": "tokens", "total": 20000}},
    ),
    nested(
        "output_format",
        "supported",
        "Older name of `output_config.format`.",
        output_format=FORMAT,
    ),
)

NOT_HERE: tuple[Row, ...] = (
    accepted("speed", "standard", "There is one speed; others are refused."),
    refused("container", "c", "No code runs on this server."),
    refused("context_management", {"edits": []}, "Nothing is cut out of a conversation."),
    refused("diagnostics", {"previous_message_id": "x"}, "No diagnostics are made."),
    refused("inference_geo", "us", "There is one place: this machine."),
    refused("mcp_servers", [{"name": "x", "type": "url", "url": "x"}], "Nothing is fetched."),
    refused("user_profile_id", "x", "There are no profiles."),
    refused("workspace_id", "x", "There are no workspaces."),
)

MESSAGES = Surface(
    name="Anthropic messages",
    path="/v1/messages",
    least={"messages": [USER], "max_tokens": 2},
    rows=(
        *CONVERSATION,
        supported("max_tokens", 2, "Bound on generated tokens, thinking included."),
        supported("temperature", 0.5, "0 to 1; 0 is greedy."),
        supported("top_p", 0.9, "Above 0 to 1."),
        supported("top_k", 40, "0 means all."),
        supported("stop_sequences", ["x", "y"], "Up to 64 strings, also across token borders."),
        supported("stream", False, "Server-sent events."),
        supported("metadata", {}, "Who asks."),
        nested(
            "metadata.user_id",
            "supported",
            "Names the client within its key, where no header does.",
            metadata={"user_id": "u"},
        ),
        accepted("service_tier", "standard_only", "There is one tier."),
        *TOOLS,
        *OUTPUT,
        *NOT_HERE,
        refused("n", 2, "There is one answer."),
    ),
    sdk="anthropic.types.message_create_params:MessageCreateParamsBase",
    watch="`tests/contract/test_sdk_fields.py` (anthropic SDK), `make openclaw` (OpenClaw)",
)


ASKED: tuple[Row, ...] = (*CONVERSATION, *TOOLS, *OUTPUT, *NOT_HERE)

COUNT_TOKENS = Surface(
    name="Anthropic token counting",
    path="/v1/messages/count_tokens",
    least={"messages": [USER]},
    rows=(
        *(without(row, "max_tokens", "stop_sequences") for row in ASKED),
        refused("max_tokens", 2, "Nothing is generated."),
    ),
    sdk="anthropic.types.message_count_tokens_params:MessageCountTokensParams",
    watch="`tests/contract/test_sdk_fields.py` (anthropic SDK)",
)
