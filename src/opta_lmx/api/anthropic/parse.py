"""A decoded messages request becomes one `GenerationRequest`, or one typed error."""

from typing import Any, cast

import msgspec

from opta_lmx.api.anthropic import wire
from opta_lmx.api.anthropic.blocks import conversation
from opta_lmx.api.fields import validated
from opta_lmx.api.tools import check_known, check_some, checked_tools
from opta_lmx.codec.constraints import check
from opta_lmx.core.errors import invalid, unsupported
from opta_lmx.core.types import (
    GenerationRequest,
    JsonOutput,
    Prompt,
    SamplingParams,
    Tool,
    ToolChoice,
)

_MODES: dict[str, ToolChoice] = {
    "auto": ToolChoice("auto"),
    "any": ToolChoice("required"),
    "tool": ToolChoice("required"),
    "none": ToolChoice("none"),
}


class MessagesCall(msgspec.Struct, frozen=True):
    """A parsed request; `hide_thinking`: the client wants thinking left out of the answer."""

    request: GenerationRequest
    stream: bool = False
    hide_thinking: bool = False


def parse_messages(fields: dict[str, Any]) -> MessagesCall:
    """Read a decoded body of `/v1/messages`.

    Raises:
        LmxError: `INVALID_REQUEST` or `UNSUPPORTED_PARAMETER`, with the dotted `param`.
    """
    _refuse_server_tools(fields)
    body = validated(wire.MessagesRequest, fields)
    _check_budget(body)
    request = msgspec.structs.replace(
        _request(body),
        sampling=SamplingParams(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k),
        max_tokens=body.max_tokens,
        stop=None if body.stop_sequences is None else tuple(body.stop_sequences),
        user=(body.metadata and body.metadata.user_id) or None,
    )
    _check_schemas(request, body)
    hide = body.thinking is not None and body.thinking.display == "omitted"
    return MessagesCall(request, bool(body.stream), hide)


def parse_count(fields: dict[str, Any]) -> GenerationRequest:
    """Read a decoded body of `/v1/messages/count_tokens`. Raises as `parse_messages`."""
    _refuse_server_tools(fields)
    body = validated(wire.PromptRequest, fields)
    request = _request(body)
    _check_schemas(request, body)
    return request


def _request(body: wire.PromptRequest) -> GenerationRequest:
    tools = _tools(body.tools or [])
    choice = _choice(body.tool_choice, tools)
    return GenerationRequest(
        model=body.model,
        prompt=Prompt(
            messages=conversation(body.messages, body.system),
            tools=() if choice.mode == "none" else tools,
            template_kwargs=_template_kwargs(body),
        ),
        output=_output(body),
        tool_choice=choice,
        parallel_tool_calls=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
    )


def _check_schemas(request: GenerationRequest, body: wire.PromptRequest) -> None:
    configured = body.output_config is not None and body.output_config.format is not None
    output = "output_config.format.schema" if configured else "output_format.schema"
    check(request, output=output, tools="tools.{}.input_schema")


def _refuse_server_tools(fields: dict[str, Any]) -> None:
    """Say what is wrong with such a tool before its fields are called unknown one by one."""
    tools = fields.get("tools")
    if not isinstance(tools, list):
        return
    for i, tool in enumerate(cast("list[Any]", tools)):
        kind = cast("dict[str, Any]", tool).get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "custom":
            raise unsupported(
                f"Tools of type '{kind[:64]}' are not supported: only those the client runs are.",
                f"tools.{i}.type",
            )


def _check_budget(body: wire.MessagesRequest) -> None:
    thinking = body.thinking
    if thinking is None:
        return
    if thinking.type == "enabled" and thinking.budget_tokens is None:
        where = "thinking.budget_tokens"
        raise invalid(f"The parameter '{where}' is missing.", param=where)
    if thinking.budget_tokens is not None and thinking.budget_tokens >= body.max_tokens:
        raise invalid(
            "'max_tokens' must be greater than 'thinking.budget_tokens'.", param="max_tokens"
        )


def _tools(tools: list[wire.Tool]) -> tuple[Tool, ...]:
    return checked_tools(
        Tool(tool.name, _description(tool), tool.input_schema, bool(tool.strict)) for tool in tools
    )


def _description(tool: wire.Tool) -> str:
    examples = [msgspec.json.encode(example).decode() for example in tool.input_examples or ()]
    if not examples:
        return tool.description or ""
    return "\n".join(filter(None, [tool.description, "Examples of input:", *examples]))


def _choice(wanted: wire.ToolChoice | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if wanted is None:
        return ToolChoice()
    if wanted.type in ("any", "tool"):
        check_some(tools, wanted.type)
    if (wanted.name is not None) != (wanted.type == "tool"):
        where = "tool_choice.name"
        raise invalid(f"'{where}' belongs to the type 'tool', and only there.", param=where)
    if wanted.name is not None:
        check_known([wanted.name], tools, "tool_choice.name")
    return msgspec.structs.replace(_MODES[wanted.type], name=wanted.name)


def _output(body: wire.PromptRequest) -> JsonOutput | None:
    wanted = (body.output_config and body.output_config.format) or body.output_format
    return None if wanted is None else JsonOutput(wanted.schema_)


def _template_kwargs(body: wire.PromptRequest) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if body.output_config is not None and body.output_config.effort is not None:
        kwargs["reasoning_effort"] = body.output_config.effort
    if body.thinking is not None:
        kwargs["enable_thinking"] = body.thinking.type != "disabled"
        if body.thinking.budget_tokens is not None:
            kwargs["thinking_budget"] = body.thinking.budget_tokens
    return kwargs
