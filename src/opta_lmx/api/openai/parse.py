"""A decoded chat request becomes one `GenerationRequest`, or one typed error naming the fault."""

from typing import Any

import msgspec

from opta_lmx.api.fields import validated
from opta_lmx.api.openai import wire
from opta_lmx.api.openai.generation import DEFAULT_MAX_CHOICES, sampling, wants_usage
from opta_lmx.api.tools import check_known, check_some, checked_tools
from opta_lmx.api.values import bias_pairs, effort_kwargs
from opta_lmx.codec.constraints import check
from opta_lmx.codec.normalise import normalise
from opta_lmx.core.errors import invalid
from opta_lmx.core.types import (
    GenerationRequest,
    JsonOutput,
    Prompt,
    Tool,
    ToolChoice,
)


class ChatCall(msgspec.Struct, frozen=True):
    """A parsed request."""

    request: GenerationRequest
    stream: bool
    include_usage: bool


class ChatParser:
    """Reads the body of a chat request.

    Args:
        max_choices: the largest `n`.
    """

    def __init__(self, max_choices: int = DEFAULT_MAX_CHOICES) -> None:
        self._max_choices = max_choices

    def __call__(self, fields: dict[str, Any]) -> ChatCall:
        """Read a decoded body.

        Raises:
            LmxError: `INVALID_REQUEST` or `UNSUPPORTED_PARAMETER`, with the dotted `param`.
        """
        chat = validated(wire.ChatCompletionRequest, fields)
        include_usage = wants_usage(chat)
        self._check(chat)
        request = _request(chat)
        check(request, output="response_format.json_schema.schema", tools="tools")
        return ChatCall(
            request=request,
            stream=bool(chat.stream),
            include_usage=include_usage,
        )

    def _check(self, chat: wire.ChatCompletionRequest) -> None:
        if chat.n is not None and chat.n > self._max_choices:
            raise invalid(f"'n' must be at most {self._max_choices}.", param="n")
        if chat.top_logprobs and not chat.logprobs:
            raise invalid("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")


def _request(chat: wire.ChatCompletionRequest) -> GenerationRequest:
    tools = _tools(chat.tools or [])
    choice, tools = _choice(chat.tool_choice, tools)
    return GenerationRequest(
        model=chat.model,
        prompt=Prompt(
            messages=normalise(chat.messages),
            tools=() if choice.mode == "none" else tools,
            template_kwargs=_template_kwargs(chat),
        ),
        sampling=sampling(chat),
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        limit_field="max_completion_tokens" if chat.max_completion_tokens else "max_tokens",
        stop=None if chat.stop is None else tuple(chat.stop),
        top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        cache_key=chat.prompt_cache_key or None,
        user=chat.user or chat.safety_identifier or None,
        n=chat.n or 1,
        logit_bias=bias_pairs(chat.logit_bias),
        output=_output(chat.response_format),
        tool_choice=choice,
        parallel_tool_calls=chat.parallel_tool_calls is not False,
    )


def _tools(tools: list[wire.Tool]) -> tuple[Tool, ...]:
    functions = [tool.function for tool in tools]
    return checked_tools(
        (Tool(f.name, f.description or "", f.parameters or {}, bool(f.strict)) for f in functions),
        "tools.{}.function.name",
    )


def _choice(
    wanted: wire.ToolChoice | None, tools: tuple[Tool, ...]
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The choice, and the tools it leaves."""
    if wanted is None:
        return ToolChoice(), tools
    if isinstance(wanted, str):
        if wanted == "required":
            check_some(tools, wanted)
        return ToolChoice(wanted), tools
    if wanted.type == "allowed_tools":
        return _allowed(wanted, tools)
    if wanted.function is None:
        raise invalid("'tool_choice.function' is missing.", param="tool_choice.function")
    name = wanted.function.name
    check_known([name], tools, "tool_choice.function.name")
    return ToolChoice("required", name), tools


def _allowed(
    wanted: wire.ToolChoiceObject, tools: tuple[Tool, ...]
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    if wanted.allowed_tools is None:
        raise invalid("'tool_choice.allowed_tools' is missing.", param="tool_choice.allowed_tools")
    names = [tool.function.name for tool in wanted.allowed_tools.tools]
    check_known(names, tools, "tool_choice.allowed_tools.tools")
    left = tuple(tool for tool in tools if tool.name in names)
    return ToolChoice(wanted.allowed_tools.mode), left


def _output(wanted: wire.ResponseFormat | None) -> JsonOutput | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonOutput()
    if wanted.json_schema is None:
        where = "response_format.json_schema"
        raise invalid(f"The parameter '{where}' is missing.", param=where)
    return JsonOutput(wanted.json_schema.schema_)


def _template_kwargs(chat: wire.ChatCompletionRequest) -> dict[str, Any]:
    kwargs = effort_kwargs(chat.reasoning_effort or (chat.reasoning and chat.reasoning.effort))
    if chat.thinking is not None:
        kwargs["enable_thinking"] = chat.thinking.type == "enabled"
    return {**kwargs, **(chat.chat_template_kwargs or {})}
