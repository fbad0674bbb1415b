"""Bytes of a chat request become one `GenerationRequest`, or one typed error naming the fault."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from pydantic import ValidationError

from opta_lmx.api.openai import wire
from opta_lmx.codec.normalise import normalise
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.types import GenerationRequest, Prompt, SamplingParams, Tool

MAX_DEPTH = 64
"""Nesting of a request body."""

_INT_RANGE = (-(2**63), 2**64 - 1)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PHRASES = (
    (re.compile(r"^(?:Input|List|String|Value) should"), "it should"),
    (re.compile(r" after validation"), ""),
    (re.compile(r"a valid dictionary(?: or instance of \w+)?"), "an object"),
)


class Peek(msgspec.Struct, frozen=True):
    """What the first gate needs to know."""

    model: str
    stream: bool


class ChatCall(msgspec.Struct, frozen=True):
    """A parsed request. `uses_tools`: calls may come, so the answer must be searched for them."""

    request: GenerationRequest
    stream: bool
    include_usage: bool
    uses_tools: bool


class _Head(msgspec.Struct):
    model: Any = None
    stream: Any = None


_head_decoder = msgspec.json.Decoder(_Head)
_any_decoder = msgspec.json.Decoder(Any)


def peek(body: bytes) -> Peek:
    """Read the model and the transport, skipping everything else.

    Raises:
        LmxError: `INVALID_REQUEST`; the body is no JSON object, or names no model.
    """
    head = _decode(body, _head_decoder)
    if not isinstance(head.model, str) or not head.model:
        raise invalid("The parameter 'model' must be a non-empty string.", param="model")
    if head.stream is not None and not isinstance(head.stream, bool):
        raise invalid("The parameter 'stream' must be a boolean.", param="stream")
    return Peek(head.model, bool(head.stream))


def parse_chat(body: bytes) -> ChatCall:
    """Read the whole request.

    Raises:
        LmxError: `INVALID_REQUEST` or `UNSUPPORTED_PARAMETER`, with the dotted `param`.
    """
    fields = _decode(body, _any_decoder)
    if not isinstance(fields, dict):
        raise invalid("The request body must be a JSON object.", code="invalid_json")
    _check_tree(cast("dict[str, Any]", fields))
    try:
        chat = wire.ChatCompletionRequest.model_validate(fields)
    except ValidationError as error:
        raise _first_fault(error) from None
    return _call(chat)


def _call(chat: wire.ChatCompletionRequest) -> ChatCall:
    if chat.stream_options is not None and not chat.stream:
        raise invalid("'stream_options' needs 'stream' to be true.", param="stream_options")
    tools = () if chat.tool_choice == "none" else _tools(chat.tools or [])
    return ChatCall(
        request=_request(chat, tools),
        stream=bool(chat.stream),
        include_usage=chat.stream_options is not None and bool(chat.stream_options.include_usage),
        uses_tools=bool(tools),
    )


def _request(chat: wire.ChatCompletionRequest, tools: tuple[Tool, ...]) -> GenerationRequest:
    return GenerationRequest(
        model=chat.model,
        prompt=Prompt(
            messages=normalise(chat.messages),
            tools=tools,
            template_kwargs=_template_kwargs(chat),
        ),
        sampling=SamplingParams(
            temperature=chat.temperature,
            top_p=chat.top_p,
            top_k=chat.top_k,
            min_p=chat.min_p,
            seed=chat.seed,
        ),
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        stop=tuple(chat.stop or ()),
        cache_key=chat.prompt_cache_key or None,
        user=chat.user or chat.safety_identifier or None,
    )


def _tools(tools: list[wire.Tool]) -> tuple[Tool, ...]:
    names: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.function.name in names:
            where = f"tools.{i}.function.name"
            raise invalid(f"The name in '{where}' is already taken by another tool.", param=where)
        names.add(tool.function.name)
    functions = [tool.function for tool in tools]
    return tuple(Tool(f.name, f.description or "", f.parameters or {}) for f in functions)


def _template_kwargs(chat: wire.ChatCompletionRequest) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if chat.reasoning_effort is not None:
        kwargs["reasoning_effort"] = chat.reasoning_effort
        if chat.reasoning_effort in ("none", "minimal"):
            kwargs["enable_thinking"] = False
    if chat.thinking is not None:
        kwargs["enable_thinking"] = chat.thinking.type == "enabled"
    return {**kwargs, **(chat.chat_template_kwargs or {})}


def _first_fault(error: ValidationError) -> LmxError:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in fault["loc"]]
    if fault["type"] == wire.UNKNOWN:
        where.append(fault.get("ctx", {})["name"])
    param = ".".join(where)
    if fault["type"] == wire.UNKNOWN:
        message = f"The parameter '{param}' is unknown."
        return LmxError(ErrorKind.UNSUPPORTED_PARAMETER, message, param=param)
    if fault["type"] == wire.UNSUPPORTED:
        message = f"The parameter '{param}' is not supported with this value."
        return LmxError(ErrorKind.UNSUPPORTED_PARAMETER, message, param=param)
    if fault["type"] == "missing":
        return invalid(f"The parameter '{param}' is missing.", param=param)
    reason = fault["msg"]
    for pattern, phrase in _PHRASES:
        reason = pattern.sub(phrase, reason, count=1)
    return invalid(f"Invalid value for '{param}': {reason}.", param=param)


def _decode(body: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        cause: Exception = error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        cause = error
    except RecursionError:
        raise _too_deep() from None
    mended = _explain(body, cause)
    try:
        return decoder.decode(mended)
    except msgspec.MsgspecError as error:
        raise invalid(f"The request body is not valid: {error}.", code="invalid_json") from None


def _explain(body: bytes, cause: Exception) -> bytes:
    """Say what a strict parser dislikes, or return the body without half characters.

    A lenient second reading tells numbers that JSON has no word for (NaN, 1e309: named by
    their place) and strings that JavaScript clients cut within a character (a lone surrogate
    becomes U+FFFD: a history must not be refused for ever for one cut emoji) from true garbage.
    """
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise invalid(
            f"The request body is not valid JSON: {cause}.", code="invalid_json"
        ) from None
    if not isinstance(value, dict):
        raise invalid("The request body must be a JSON object.", code="invalid_json")
    _check_tree(cast("dict[str, Any]", value))
    return _SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)).encode()


def _check_tree(fields: dict[str, Any]) -> None:
    """Refuse deep nesting, and numbers that neither JSON nor the worker's protocol can carry."""
    level: list[Any] = [fields]
    for _ in range(MAX_DEPTH):
        inner = [
            value
            for node in level
            for value in (cast("dict[str, Any]", node).values() if type(node) is dict else node)
        ]
        if not all(_sound(value) for value in inner if type(value) in (int, float)):
            raise _bad_number(fields)
        level = [value for value in inner if type(value) in (dict, list)]
        if not level:
            return
    raise _too_deep()


def _sound(number: float) -> bool:
    if isinstance(number, int):
        return _INT_RANGE[0] <= number <= _INT_RANGE[1]
    return math.isfinite(number)


def _bad_number(fields: dict[str, Any]) -> LmxError:
    param = _place_of_bad_number(fields)
    return invalid(f"The number in '{param}' is out of range or not finite.", param=param)


def _place_of_bad_number(fields: dict[str, Any]) -> str:
    """Return the dotted place of the first unsound number, in the order of the body."""
    path: list[str] = []
    waiting = [_items(fields)]
    while waiting:
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
            del path[-1:]
        elif type(item[1]) in (dict, list):
            path.append(str(item[0])[:64])
            waiting.append(_items(item[1]))
        elif type(item[1]) in (int, float) and not _sound(item[1]):
            return ".".join([*path, str(item[0])[:64]])
    return ""


def _items(node: object) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        return iter(cast("dict[str, Any]", node).items())
    return enumerate(cast("list[Any]", node))


def _too_deep() -> LmxError:
    return invalid(f"The request body is nested deeper than {MAX_DEPTH}.", code="invalid_json")
