"""OpenAI's Responses API, field by field."""

from typing import Any

from tests.contract.matrix import common
from tests.contract.matrix.model import (
    EVERYTHING,
    Row,
    Status,
    Surface,
    accepted,
    nested,
    refused,
    supported,
    with_parts,
    without,
)

WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "parameters": common.CITY}
NAMED: dict[str, Any] = {"type": "function", "name": "weather"}
USER: dict[str, Any] = {"type": "message", "role": "user", "content": "hi"}
CALL: dict[str, Any] = {
    "type": "function_call",
    "call_id": "c1",
    "name": "weather",
    "arguments": "{}",
}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "sun"}
TEXT: dict[str, Any] = {"type": "input_text", "text": "hi"}
THOUGHT: dict[str, Any] = {
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "hm"}],
}


def _items(field: str, status: Status, meaning: str, *items: dict[str, Any]) -> Row:
    return nested(f"input.{field}", status, meaning, input=[*items])


def _replayed(name: str) -> Row:
    """Part of an answer's text that a client sends back with it."""
    part = {"type": "output_text", "text": "x", name: []}
    meaning = "Comes back with a replayed answer; no words of it."
    turn = {"type": "message", "role": "assistant", "content": [part]}
    return with_parts(_items(f"content.{name}", "accepted", meaning, USER, turn, USER), EVERYTHING)


def _format(**fields: Any) -> dict[str, Any]:
    return {
        "text": {"format": {"type": "json_schema", "name": "x", "schema": common.CITY, **fields}}
    }


ITEMS: tuple[Row, ...] = (
    supported("input", [USER], "A user's text, or the items of a conversation."),
    _items(
        "type",
        "supported",
        "`message`, `function_call`, `function_call_output`, "
        "`reasoning`, `compaction`, `item_reference`; items of hosted tools are refused.",
        USER,
    ),
    _items("role", "supported", "`developer` is `system`.", USER),
    with_parts(
        _items("content", "supported", "A string or text parts.", {**USER, "content": [TEXT]}),
        *("type", "text", "refusal"),
    ),
    _replayed("annotations"),
    _replayed("logprobs"),
    _items("phase", "supported", "Kept with the item.", {**USER, "phase": "final_answer"}),
    _items("id", "supported", "Kept with the item.", {**USER, "id": "msg_1"}),
    _items("status", "supported", "Checked.", {**USER, "status": "completed"}),
    _items("call_id", "supported", "Joins a result to its call.", USER, CALL, OUTPUT),
    _items("name", "supported", "Of a call.", USER, CALL, OUTPUT),
    _items("arguments", "supported", "Of a call, as JSON text.", USER, CALL, OUTPUT),
    with_parts(
        _items(
            "output",
            "supported",
            "A string or text parts.",
            USER,
            CALL,
            {**OUTPUT, "output": [TEXT]},
        ),
        *("type", "text"),
    ),
    with_parts(
        _items("summary", "supported", "Earlier thinking.", USER, THOUGHT, USER),
        *("type", "text"),
    ),
    _items(
        "encrypted_content",
        "supported",
        "Earlier thinking, or a compacted conversation, as this server sealed it.",
        USER,
        {**THOUGHT, "encrypted_content": "x"},
        USER,
    ),
    _items(
        "content.input_image",
        "refused",
        common.PICTURES,
        {**USER, "content": [{"type": "input_image", "image_url": "data:,"}]},
    ),
    _items(
        "content.input_file",
        "refused",
        "The models here read text only.",
        {**USER, "content": [{"type": "input_file", "file_data": "x"}]},
    ),
    supported("instructions", "Be brief.", "A system turn before all, for this response only."),
    nested(
        "previous_response_id",
        "refused",
        "Supported; refused here because no such response is stored.",
        previous_response_id="resp_none",
    ),
)

TOOLS: tuple[Row, ...] = (
    with_parts(
        supported("tools", [WEATHER], "Functions, up to 128; hosted tools are refused."),
        *("type", "name", "description", "parameters"),
    ),
    nested(
        "tools.strict",
        "supported",
        "Arguments are held to the schema. Unsaid: where the schema is closed.",
        tools=[{**WEATHER, "strict": True}],
    ),
    nested(
        "tools.output_schema",
        "refused",
        "What a function gives is not checked.",
        tools=[{**WEATHER, "output_schema": {}}],
    ),
    nested(
        "tools.defer_loading",
        "refused",
        "Only false: there is no tool search.",
        tools=[{**WEATHER, "defer_loading": True}],
    ),
    nested(
        "tools.allowed_callers",
        "accepted",
        "Only `direct`.",
        tools=[{**WEATHER, "allowed_callers": ["direct"]}],
    ),
    with_parts(
        nested(
            "tool_choice",
            "supported",
            "`none`, `auto`, `required`, a function, or `allowed_tools`.",
            tools=[WEATHER],
            tool_choice="none",
        ),
        "type",
    ),
    nested(
        "tool_choice.name",
        "supported",
        "The function that is called.",
        tools=[WEATHER],
        tool_choice=NAMED,
        max_output_tokens=48,
    ),
    nested(
        "tool_choice.tools",
        "supported",
        "Only these are offered.",
        tools=[WEATHER],
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [NAMED]},
    ),
    nested(
        "tool_choice.mode",
        "supported",
        "Of `allowed_tools`.",
        tools=[WEATHER],
        tool_choice={"type": "allowed_tools", "mode": "none", "tools": [NAMED]},
    ),
    nested(
        "parallel_tool_calls",
        "supported",
        "False: the answer ends after its first call.",
        tools=[WEATHER],
        parallel_tool_calls=False,
    ),
)

TEXTS: tuple[Row, ...] = (
    supported("text", {"format": {"type": "text"}}, "What the answer's text must be."),
    with_parts(
        nested(
            "text.format",
            "supported",
            "`text`, `json_object` or `json_schema`; enforced.",
            text={"format": {"type": "json_object"}},
        ),
        *("type", "name", "schema"),
    ),
    nested(
        "text.format.strict",
        "supported",
        "The schema is enforced whichever is said.",
        **_format(strict=True),
    ),
    nested(
        "text.format.description",
        "accepted",
        "For people; not shown to the model.",
        **_format(description="x"),
    ),
    nested("text.verbosity", "refused", "Only `medium`.", text={"verbosity": "low"}),
    supported("reasoning", {"effort": "low", "summary": "auto"}, "How to think."),
    nested(
        "reasoning.effort",
        "supported",
        "To the template; `none` switches thinking off.",
        reasoning={"effort": "none"},
    ),
    nested(
        "reasoning.summary",
        "accepted",
        "Thinking comes whole, whichever is said.",
        reasoning={"summary": "concise"},
    ),
    nested(
        "reasoning.generate_summary",
        "accepted",
        "Older name of `summary`.",
        reasoning={"generate_summary": "auto"},
    ),
    nested("reasoning.context", "refused", "Only `auto`.", reasoning={"context": "all_turns"}),
    nested("reasoning.mode", "refused", "Only `standard`.", reasoning={"mode": "pro"}),
)

CONVERSATION: tuple[Row, ...] = (*ITEMS, *TOOLS, *TEXTS)

REST: tuple[Row, ...] = (
    supported("truncation", "auto", "Drops the oldest turns of what does not fit; else refused."),
    refused("conversation", "c", "Use `previous_response_id`."),
)

CREATE_ONLY: tuple[Row, ...] = (
    supported("max_output_tokens", 2, "Bound on generated tokens, thinking included."),
    nested(
        "max_tool_calls",
        "supported",
        "The answer ends after so many calls.",
        tools=[WEATHER],
        max_tool_calls=1,
    ),
    *common.TEMPERATURE,
    supported("frequency_penalty", 0.5, "-2 to 2 (Open Responses)."),
    supported("presence_penalty", 0.5, "-2 to 2 (Open Responses)."),
    supported("top_logprobs", 3, "0 to 20."),
    supported(
        "include",
        ["message.output_text.logprobs"],
        "That, or `reasoning.encrypted_content`; all else is refused.",
    ),
    supported("store", False, "Kept unless false, until its time is over."),
    nested(
        "background",
        "supported",
        "Answers at once and works on; needs `store`.",
        background=True,
        store=True,
    ),
    supported("stream", False, "Server-sent events, each with `type` and `sequence_number`."),
    common.STREAM_OPTIONS,
    common.NO_OBFUSCATION,
    supported("metadata", {"a": "b"}, "Labels, kept with the response."),
    accepted("client_metadata", {"a": "b"}, "The client's own labels."),
    *common.WHO,
    common.SERVICE_TIER,
    refused("prompt", {"id": "p"}, "No prompts are stored."),
    refused("context_management", [{"type": "compaction"}], "Use `/v1/responses/compact`."),
    refused("moderation", {"model": "x"}, "No moderation is built in."),
    refused("access_programs", {"x": True}, "There are none."),
    refused("background_options", {"x": 1}, "There are none."),
    refused("image", {"x": 1}, "No pictures are made."),
    refused("prompt_cache_options", {"mode": "x"}, "Prefixes are found without being marked."),
)

RESPONSES = Surface(
    name="OpenAI Responses",
    path="/v1/responses",
    least={"input": "hi", "max_output_tokens": 2, "store": False},
    rows=(*CONVERSATION, *REST, *CREATE_ONLY),
    sdk="openai.types.responses.response_create_params:ResponseCreateParamsBase",
    watch="`tests/contract/test_sdk_fields.py` (openai SDK), "
    "`tests/contract/test_openresponses.py` (the specification), `make openclaw` (OpenClaw)",
)


INPUT_TOKENS = Surface(
    name="OpenAI Responses, token counting",
    path="/v1/responses/input_tokens",
    least={"input": "hi"},
    rows=(
        *(without(row, "max_output_tokens") for row in CONVERSATION),
        *REST,
        refused("personality", "x", "There is one."),
    ),
    sdk="openai.types.responses.input_token_count_params:InputTokenCountParams",
    watch="`tests/contract/test_sdk_fields.py` (openai SDK)",
)

COMPACT = Surface(
    name="OpenAI Responses, compaction",
    path="/v1/responses/compact",
    least={"input": "hi"},
    rows=(
        *ITEMS,
        *common.CACHE,
        common.SERVICE_TIER,
        refused("image", {"x": 1}, "No pictures are made."),
        refused("prompt_cache_options", {"mode": "x"}, "Prefixes are found without being marked."),
    ),
    sdk="openai.types.responses.response_compact_params:ResponseCompactParams",
    watch="`tests/contract/test_sdk_fields.py` (openai SDK)",
)
