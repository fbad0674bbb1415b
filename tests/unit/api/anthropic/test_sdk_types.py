"""Every key of the SDK's request types is supported here, or refused by its name."""

import typing
from typing import Any, get_args

import pytest
from anthropic import types
from anthropic.types import beta, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_create_params
from pydantic import BaseModel

from opta_lmx.api.anthropic import wire
from opta_lmx.api.anthropic.parse import parse_messages
from opta_lmx.api.fields import WireModel
from opta_lmx.core.errors import ErrorKind, LmxError

Json = dict[str, Any]

# The SDK sends these as headers, and unknown headers are ignored.
HEADERS = {"user_profile_id", "workspace_id", "betas"}
# What older SDKs, and the newest with `extra_body`, can send besides.
EXTRA = {"output_format", "temperature", "top_k", "top_p"}
SCHEMA: Json = {"type": "json_schema", "schema": {"type": "object"}}
TOOL: Json = {"name": "look", "input_schema": {"type": "object"}}
SAMPLES: dict[str, Any] = {
    "max_tokens": 4096,
    "messages": [{"role": "user", "content": "hi"}],
    "model": "m",
    "cache_control": {"type": "ephemeral"},
    "metadata": {"user_id": "u"},
    "output_config": {"effort": "max", "format": SCHEMA},
    "output_format": SCHEMA,
    "service_tier": "auto",
    "speed": "standard",
    "stop_sequences": ["x"],
    "stream": True,
    "system": "s",
    "temperature": 1.0,
    "thinking": {"type": "adaptive", "display": "summarized"},
    "tool_choice": {"type": "auto"},
    "tools": [TOOL],
    "top_k": 5,
    "top_p": 0.5,
}
# A value of the SDK's own type, for keys that are known and refused.
REFUSED: dict[str, Any] = {
    "container": "c1",
    "diagnostics": {"previous_message_id": None},
    "inference_geo": "eu",
    "billing_policy": {"type": "x"},
    "compaction": {"type": "x"},
    "context_management": {"edits": []},
    "fallback_credit_token": "t",
    "fallbacks": [{"model": "x"}],
    "mcp_servers": [{"type": "url", "url": "http://x.invalid", "name": "x"}],
    "thread": {"id": "x"},
}


def keys(kind: Any) -> set[str]:
    return set(typing.get_type_hints(kind))


def create_keys() -> set[str]:
    found = keys(message_create_params.MessageCreateParamsStreaming)
    found |= keys(beta_create_params.MessageCreateParamsStreaming)
    return found - HEADERS


def test_the_tables_hold_every_key() -> None:
    assert create_keys() | EXTRA == SAMPLES.keys() | REFUSED.keys()


@pytest.mark.parametrize("key", sorted(SAMPLES))
def test_a_supported_key(key: str) -> None:
    base = {name: SAMPLES[name] for name in ("model", "messages", "max_tokens", "tools")}
    call = parse_messages({**base, key: SAMPLES[key]})
    assert call.request.model == "m"


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_refused_key(key: str) -> None:
    base = {name: SAMPLES[name] for name in ("model", "messages", "max_tokens")}
    with pytest.raises(LmxError) as caught:
        parse_messages({**base, key: REFUSED[key]})
    assert caught.value.kind is ErrorKind.UNSUPPORTED_PARAMETER
    assert (caught.value.param or "").startswith(key)
    parse_messages({**base, key: None})


def test_counting_knows_every_key() -> None:
    wanted = keys(message_count_tokens_params.MessageCountTokensParams) - HEADERS
    assert wanted <= wire.PromptRequest.model_fields.keys()


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (types.ToolParam, wire.Tool),
        (types.ToolChoiceAutoParam, wire.ToolChoice),
        (types.ToolChoiceAnyParam, wire.ToolChoice),
        (types.ToolChoiceToolParam, wire.ToolChoice),
        (types.ToolChoiceNoneParam, wire.ToolChoice),
        (types.ThinkingConfigEnabledParam, wire.Thinking),
        (types.ThinkingConfigAdaptiveParam, wire.Thinking),
        (types.ThinkingConfigDisabledParam, wire.Thinking),
        (types.OutputConfigParam, wire.OutputConfig),
        (types.JSONOutputFormatParam, wire.OutputFormat),
        (types.MetadataParam, wire.Metadata),
        (types.CacheControlEphemeralParam, wire.CacheControl),
        (types.TextBlockParam, wire.TextBlock),
        (types.ThinkingBlockParam, wire.ThinkingBlock),
        (types.RedactedThinkingBlockParam, wire.RedactedThinkingBlock),
        (types.ToolUseBlockParam, wire.ToolUseBlock),
        (types.ToolResultBlockParam, wire.ToolResultBlock),
        (types.DocumentBlockParam, wire.TextDocumentBlock),
        (types.PlainTextSourceParam, wire.PlainText),
        (types.UserMessageParam, wire.Turn),
        (types.AssistantMessageParam, wire.Turn),
        (types.SystemMessageParam, wire.Turn),
    ],
)
def test_every_key_of_an_inner_type_is_known(kind: Any, model: type[WireModel]) -> None:
    known = {field.alias or name for name, field in model.model_fields.items()}
    assert keys(kind) <= known


def kinds(union: Any) -> set[str]:
    """The `type` values of a union of the SDK's block types."""
    if not isinstance(union, type):
        members = [arg for arg in get_args(union) if isinstance(arg, type) or get_args(arg)]
        return set().union(*(kinds(member) for member in members))
    if issubclass(union, BaseModel):
        return set(get_args(required(union.model_fields["type"].annotation)))
    return set(get_args(required(typing.get_type_hints(union).get("type"))))


def required(hint: Any) -> Any:
    """The hint without `None` around it."""
    inner = [arg for arg in get_args(hint) if get_args(arg)]
    return inner[0] if inner else hint


def blocks(union: Any, role: str) -> dict[str, str]:
    """For each block type, the code of what became of a bare block of it."""
    outcome: dict[str, str] = {}
    for kind in kinds(union):
        turn = {"role": role, "content": [{"type": kind}]}
        with pytest.raises(LmxError) as caught:
            parse_messages({**SAMPLES, "messages": [turn, *SAMPLES["messages"]]})
        outcome[kind] = caught.value.code
    return outcome


@pytest.mark.parametrize("union", [types.ContentBlockParam, beta.BetaContentBlockParam])
def test_every_block_is_read_or_refused(union: Any) -> None:
    # A block that is read lacks a field here; any other is not supported.
    asked = {kind for kind, code in blocks(union, "user").items() if code == "invalid_request"}
    assert asked == {"text", "tool_result", "document"}
    said = {kind for kind, code in blocks(union, "assistant").items() if code == "invalid_request"}
    assert said == {"text", "thinking", "redacted_thinking", "tool_use"}


@pytest.mark.parametrize("union", [types.ToolUnionParam, beta.BetaToolUnionParam])
def test_only_tools_of_the_client_are_taken(union: Any) -> None:
    server_tools = kinds(union) - {"custom"}
    assert len(server_tools) > 10
    for kind in server_tools:
        with pytest.raises(LmxError) as caught:
            parse_messages({**SAMPLES, "tools": [TOOL, {"type": kind, "name": "x"}]})
        assert caught.value.kind is ErrorKind.UNSUPPORTED_PARAMETER
        assert caught.value.param == "tools.1.type"
