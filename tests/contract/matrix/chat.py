"""OpenAI chat completions, field by field."""

from typing import Any

from tests.contract.matrix import common
from tests.contract.matrix.model import (
    Row,
    Status,
    Surface,
    accepted,
    nested,
    refused,
    supported,
    with_parts,
)

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": common.CITY,
        "strict": True,
    },
}
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "weather"}}
USER: dict[str, Any] = {"role": "user", "content": "hi"}


def _messages(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*turns, USER]}


CALL_PARTS = ("id", "type", "function", "function.name", "function.arguments")


def _with_calls(field: str, status: Status, meaning: str, **probe: Any) -> Row:
    return with_parts(nested(field, status, meaning, **probe), *CALL_PARTS)


def _format(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": common.OK, **fields}}


MESSAGES: tuple[Row, ...] = (
    supported("messages", [USER], "The conversation; adjacent turns of one role are joined."),
    nested("messages.role", "supported", "`developer` is `system`.", **_messages(USER)),
    with_parts(
        nested(
            "messages.content",
            "supported",
            "A string, or text parts; null beside tool calls.",
            messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        ),
        *("type", "text", "refusal"),
    ),
    nested("messages.name", "supported", "Shown to templates.", messages=[{**USER, "name": "Al"}]),
    _with_calls(
        "messages.tool_calls",
        "supported",
        "Calls made before.",
        messages=[
            USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "a1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "a1", "content": "sun"},
        ],
    ),
    nested(
        "messages.tool_call_id",
        "supported",
        "Which call a result answers.",
        messages=[USER, {"role": "tool", "tool_call_id": "a1", "content": "sun"}],
    ),
    nested(
        "messages.reasoning_content",
        "supported",
        "An assistant's earlier thinking, for templates that want it back.",
        **_messages({"role": "assistant", "content": "x", "reasoning_content": "hm"}),
    ),
    nested(
        "messages.refusal",
        "refused",
        "Only empty: no refusals are made here.",
        **_messages({"role": "assistant", "content": "x", "refusal": "no"}),
    ),
    nested(
        "messages.audio",
        "refused",
        "Text only.",
        **_messages({"role": "assistant", "content": "x", "audio": {"id": "a"}}),
    ),
    nested(
        "messages.function_call",
        "refused",
        "Deprecated: use `tool_calls`.",
        **_messages(
            {
                "role": "assistant",
                "content": "x",
                "function_call": {"name": "f", "arguments": "{}"},
            }
        ),
    ),
    nested(
        "messages.content.image_url",
        "refused",
        common.PICTURES,
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
        ],
    ),
    nested(
        "messages.content.input_audio",
        "refused",
        "Text only.",
        messages=[
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
            }
        ],
    ),
    nested(
        "messages.content.file",
        "refused",
        "Text only.",
        messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}],
    ),
)

SAMPLING: tuple[Row, ...] = (
    supported("max_completion_tokens", 2, "Bound on generated tokens, thinking included."),
    supported("max_tokens", 2, "Older name of `max_completion_tokens`, which wins."),
    *common.SAMPLING,
    common.STOP,
    supported("n", 2, "Answers side by side, interleaved in a stream."),
    supported(
        "logprobs",
        True,
        "Of the visible text's tokens: the model's own, before bias, penalties and temperature.",
    ),
    nested("top_logprobs", "supported", "0 to 20.", logprobs=True, top_logprobs=5),
)

TOOLS: tuple[Row, ...] = (
    with_parts(
        supported("tools", [WEATHER], "Functions, up to 128."),
        *("type", "function", "function.name", "function.description", "function.parameters"),
    ),
    nested(
        "tools.function.strict",
        "supported",
        "Arguments are held to the schema as they are generated.",
        tools=[WEATHER],
    ),
    nested(
        "tools.custom",
        "refused",
        "Only functions.",
        tools=[{"type": "custom", "custom": {"name": "x"}}],
    ),
    with_parts(
        nested(
            "tool_choice",
            "supported",
            "`none`, `auto`, `required`, a named function, or `allowed_tools`.",
            tools=[WEATHER],
            tool_choice="none",
        ),
        *("type", "function.name", "allowed_tools.mode", "allowed_tools.tools"),
    ),
    nested(
        "tool_choice.function",
        "supported",
        "This one is called.",
        tools=[WEATHER],
        tool_choice=NAMED,
        max_tokens=48,
    ),
    nested(
        "tool_choice.allowed_tools",
        "supported",
        "Only these are offered.",
        tools=[WEATHER],
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [NAMED]},
        },
    ),
    nested(
        "tool_choice.custom",
        "refused",
        "Only functions.",
        tools=[WEATHER],
        tool_choice={"type": "custom", "custom": {"name": "x"}},
    ),
    nested(
        "parallel_tool_calls",
        "supported",
        "False: the answer ends after its first call.",
        tools=[WEATHER],
        parallel_tool_calls=False,
    ),
)

OUTPUT: tuple[Row, ...] = (
    with_parts(
        supported("response_format", {"type": "json_object"}, "Enforced while it is generated."),
        *("type", "json_schema", "json_schema.name"),
    ),
    nested(
        "response_format.json_schema.schema",
        "supported",
        "JSON Schema 2020-12; what cannot be enforced is a 400.",
        response_format=_format(),
    ),
    nested(
        "response_format.json_schema.strict",
        "supported",
        "The schema is enforced whichever is said.",
        response_format=_format(strict=True),
    ),
    nested(
        "response_format.json_schema.description",
        "accepted",
        "For people; not shown to the model.",
        response_format=_format(description="x"),
    ),
    *common.STREAM,
)

REASONING: tuple[Row, ...] = (
    supported("reasoning_effort", "low", "To the template; `none` switches thinking off."),
    supported("reasoning", {"effort": "low", "summary": "auto"}, "As `reasoning_effort`."),
    supported("thinking", {"type": "disabled"}, "To the template as `enable_thinking`."),
    accepted("include", ["reasoning.encrypted_content"], "Thinking comes as `reasoning_content`."),
    supported("chat_template_kwargs", {"enable_thinking": False}, "Extension: for the template."),
)

REST: tuple[Row, ...] = (
    *common.WHO,
    common.STAY,
    accepted("metadata", {"a": "b"}, "Labels of a stored answer; chat answers are not stored."),
    accepted("client_metadata", {"a": "b"}, "The client's own labels."),
    common.SERVICE_TIER,
    accepted("modalities", ["text"], "Text only; others are refused."),
    accepted("verbosity", "medium", "Only `medium`."),
    refused("store", True, "Only false; stored answers are the Responses API's."),
    refused("audio", {"voice": "x", "format": "wav"}, "Text only."),
    refused("prediction", {"type": "content", "content": "x"}, "No engine here uses it."),
    refused("web_search_options", {}, "No search is built in."),
    refused("moderation", {"model": "x"}, "No moderation is built in."),
    refused("prompt_cache_options", {}, "Prefixes are found without being marked."),
    refused("functions", [{"name": "f"}], "Deprecated: use `tools`."),
    refused("function_call", {"name": "f"}, "Deprecated: use `tool_choice`."),
)

CHAT = Surface(
    name="OpenAI chat completions",
    path="/v1/chat/completions",
    least={"messages": [USER], "max_tokens": 2},
    rows=(*MESSAGES, *SAMPLING, *TOOLS, *OUTPUT, *REASONING, *REST),
    sdk="openai.types.chat.completion_create_params:CompletionCreateParamsBase",
    watch="`tests/contract/test_sdk_fields.py` (openai SDK), `make openclaw` (OpenClaw)",
)
