"""A decoded request becomes a draft: checked, but without what only the store knows."""

from typing import Any, cast

import msgspec

from opta_lmx.api.fields import WireModel, validated
from opta_lmx.api.responses import wire
from opta_lmx.api.responses.items import read_items
from opta_lmx.api.tools import check_known, check_some, checked_tools
from opta_lmx.api.values import effort_kwargs
from opta_lmx.codec.constraints import check
from opta_lmx.core.errors import invalid, unsupported
from opta_lmx.core.types import (
    GenerationRequest,
    JsonOutput,
    Message,
    Prompt,
    SamplingParams,
    Tool,
    ToolChoice,
)

Json = dict[str, Any]

_CHOICE_FIELDS = {"function": ("type", "name"), "allowed_tools": ("type", "mode", "tools")}


class Draft(msgspec.Struct, frozen=True):
    """A checked request. `items` are its own, `request` has no messages yet."""

    body: wire.CreateResponse
    items: list[Json]
    request: GenerationRequest

    @property
    def stores(self) -> bool:
        """Whether the response is kept."""
        return self.body.store is not False

    def with_messages(self, messages: tuple[Message, ...]) -> GenerationRequest:
        """The model call for a conversation. Raises INVALID_REQUEST when there is nothing."""
        if not messages:
            raise invalid("'input' must hold at least one item.", param="input")
        prompt = msgspec.structs.replace(self.request.prompt, messages=messages)
        return msgspec.structs.replace(self.request, prompt=prompt)


def parse_create(fields: Json) -> Draft:
    """Read the body of a new response.

    Raises:
        LmxError: INVALID_REQUEST or UNSUPPORTED_PARAMETER, with the dotted `param`.
    """
    body = validated(wire.CreateResponse, fields)
    if body.stream_options is not None and not body.stream:
        raise invalid("'stream_options' needs 'stream' to be true.", param="stream_options")
    if body.background and body.store is False:
        raise invalid("'background' needs the response to be stored.", param="background")
    if body.background and body.stream:
        raise invalid("A background response cannot be streamed.", param="background")
    request = msgspec.structs.replace(
        _request(body),
        sampling=SamplingParams(
            temperature=body.temperature,
            top_p=body.top_p,
            frequency_penalty=body.frequency_penalty,
            presence_penalty=body.presence_penalty,
        ),
        max_tokens=body.max_output_tokens,
        limit_field="max_output_tokens",
        top_logprobs=_top_logprobs(body),
        user=body.user or body.safety_identifier or None,
    )
    return Draft(body, read_items(body.input), request)


def parse_count(fields: Json) -> Draft:
    """Read the body of a count of input tokens. Raises as `parse_create`."""
    body = validated(wire.CountTokens, fields)
    return aside(body, _request(body))


def aside(body: wire.Asked, request: GenerationRequest) -> Draft:
    """The draft of a call that is about a conversation, but no turn of it.

    Args:
        body: what was asked.
        request: what that means, without messages.

    Raises:
        LmxError: as `items.read_items`.
    """
    same = wire.CreateResponse.model_fields.keys() & type(body).model_fields.keys()
    said = {name: getattr(body, name) for name in same}
    asked = wire.CreateResponse.model_validate({**said, "store": False})
    return Draft(asked, read_items(body.input), request)


def _request(body: wire.Conversing) -> GenerationRequest:
    tools = _tools(body.tools or [])
    choice, offered = _choice(body.tool_choice, tools)
    request = GenerationRequest(
        model=body.model,
        prompt=Prompt(
            tools=() if choice.mode == "none" else offered,
            template_kwargs=effort_kwargs(body.reasoning and body.reasoning.effort),
        ),
        cache_key=body.prompt_cache_key or None,
        output=_output(body.text),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )
    check(request, output="text.format.schema", tools="tools.{}.parameters")
    return request


def _top_logprobs(body: wire.CreateResponse) -> int | None:
    if body.top_logprobs or wire.LOGPROBS in (body.include or ()):
        return body.top_logprobs or 0
    return None


def _tools(tools: list[wire.FunctionTool]) -> tuple[Tool, ...]:
    return checked_tools(
        Tool(tool.name, tool.description or "", tool.parameters or {}, is_strict(tool))
        for tool in tools
    )


def is_strict(tool: wire.FunctionTool) -> bool:
    """Whether arguments are held to the schema: as said, else where the schema asks for it."""
    if tool.strict is not None:
        return tool.strict
    return tool.parameters is not None and _is_closed(tool.parameters)


def _is_closed(schema: object) -> bool:
    """True when every object in a schema requires all its properties and allows no other."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += cast("list[object]", node)
        elif isinstance(node, dict):
            fields = cast("dict[str, object]", node)
            if not _closes(fields):
                return False
            waiting += fields.values()
    return True


def _closes(node: dict[str, object]) -> bool:
    properties = node.get("properties", {})
    if node.get("type") != "object" and "properties" not in node:
        return True
    required = node.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    names = {*cast("dict[str, object]", properties)}
    said = [name for name in cast("list[object]", required) if isinstance(name, str)]
    whole = len(said) == len(cast("list[object]", required))
    return node.get("additionalProperties") is False and whole and names == {*said}


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
    _only_said(wanted, _CHOICE_FIELDS[wanted.type], "tool_choice")
    if wanted.type == "allowed_tools":
        names = [tool.name for tool in wanted.tools or ()]
        check_known(names, tools, "tool_choice.tools")
        left = tuple(tool for tool in tools if tool.name in names)
        return ToolChoice(wanted.mode or "auto"), left
    check_known([wanted.name or ""], tools, "tool_choice.name")
    return ToolChoice("required", wanted.name), tools


def _output(text: wire.Text | None) -> JsonOutput | None:
    wanted = None if text is None else text.format
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        _only_said(wanted, ("type",), "text.format")
        return None if wanted.type == "text" else JsonOutput()
    for name, value in (("schema", wanted.schema_), ("name", wanted.name)):
        if value is None:
            where = f"text.format.{name}"
            raise invalid(f"The parameter '{where}' is missing.", param=where)
    return JsonOutput(wanted.schema_)


def _only_said(wanted: WireModel, names: tuple[str, ...], at: str) -> None:
    """Refuse fields that mean something only beside another `type`."""
    for name, value in wanted.model_dump(by_alias=True).items():
        if value is not None and name not in names:
            raise unsupported(f"'{at}.{name}' has no meaning with this type.", f"{at}.{name}")
