"""OpenAI-shaped messages, as decoded from JSON, become the core's `Message` turns.

`developer` becomes `system`, list content becomes text, null content the empty text; adjacent
turns of one role are merged. Nothing is dropped in silence: a field or content part that has
no meaning here is refused by its dotted name.
"""

from collections.abc import Collection, Sequence
from typing import Any, cast

from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.core.errors import ErrorKind, LmxError, UnknownFieldError, invalid
from opta_lmx.core.types import Message, Role, ToolCall

PART_SEPARATOR = "\n"
"""What stands between the text parts of one message."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_FIELDS: dict[Role, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset(
        {"role", "content", "name", "tool_calls", "reasoning_content", "reasoning"}
    ),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
}
# Fields that clients replay from an earlier answer; empty, they ask for nothing.
_EMPTY_ONLY = frozenset(
    {"refusal", "audio", "function_call", "annotations", "reasoning_content", "reasoning"}
)
_MEDIA_PARTS = frozenset({"image_url", "input_audio", "file", "image", "video_url", "audio_url"})
_MAX_NAME = 256


def normalise(messages: Sequence[object], *, param: str = "messages") -> tuple[Message, ...]:
    """Check and convert a conversation.

    Args:
        messages: decoded JSON objects, in order.
        param: what the request calls the list; the prefix of every error's `param`.

    Raises:
        LmxError: `INVALID_REQUEST` for what is malformed, `UNSUPPORTED_PARAMETER` for what is
            well-formed but has no meaning here (images, audio, files, unknown fields).
    """
    if not messages:
        raise invalid(f"'{param}' must hold at least one message.", param=param)
    return merge_adjacent(_message(raw, f"{param}.{i}") for i, raw in enumerate(messages))


def _message(raw: object, at: str) -> Message:
    fields = _object(raw, at)
    role = _role(fields.get("role"), at)
    _only(fields, _FIELDS[role], at)
    calls = _tool_calls(fields.get("tool_calls"), f"{at}.tool_calls")
    if "content" not in fields and not calls:
        raise invalid(f"'{at}.content' is missing.", param=f"{at}.content")
    return Message(
        role=role,
        content=_content(fields.get("content"), role, f"{at}.content"),
        reasoning=_reasoning(fields, at) if role == "assistant" else "",
        tool_calls=calls,
        tool_call_id=_text(fields.get("tool_call_id"), f"{at}.tool_call_id")
        if role == "tool"
        else None,
        name=_name(fields.get("name"), f"{at}.name"),
    )


def _reasoning(fields: dict[str, Any], at: str) -> str:
    """The thinking of an earlier turn, under either of the names clients replay it by."""
    for key in ("reasoning_content", "reasoning"):
        value = fields.get(key)
        if value in (None, "", []):
            continue
        if not isinstance(value, str):
            raise invalid(f"'{at}.{key}' must be a string.", param=f"{at}.{key}")
        return value
    return ""


def _role(value: object, at: str) -> Role:
    role = _ROLES.get(value) if isinstance(value, str) else None
    if role is not None:
        return role
    if value == "function":
        raise _unsupported("The role 'function' is deprecated: use 'tool'.", f"{at}.role")
    allowed = ", ".join(f"'{name}'" for name in _ROLES)
    raise invalid(f"'{at}.role' must be one of {allowed}.", param=f"{at}.role")


def _content(value: object, role: Role, at: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(f"'{at}' must be a string, a list of parts or null.", param=at)
    parts = cast("list[object]", value)
    return PART_SEPARATOR.join(_part(part, role, f"{at}.{i}") for i, part in enumerate(parts))


def _part(raw: object, role: Role, at: str) -> str:
    part = _object(raw, at)
    kind = part.get("type")
    if not isinstance(kind, str):
        raise invalid(f"'{at}.type' must be a string.", param=f"{at}.type")
    if kind in _MEDIA_PARTS:
        raise _unsupported(f"Content parts of type '{kind}' are not supported.", f"{at}.{kind}")
    if kind != "text" and not (kind == "refusal" and role == "assistant"):
        raise _unsupported(f"'{at}.type' must be 'text'.", f"{at}.type")
    _only(part, {"type", kind}, at)
    text = part.get(kind)
    if not isinstance(text, str):
        raise invalid(f"'{at}.{kind}' must be a string.", param=f"{at}.{kind}")
    return text


def _tool_calls(value: object, at: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid(f"'{at}' must be a list.", param=at)
    calls = cast("list[object]", value)
    return tuple(_tool_call(raw, f"{at}.{i}") for i, raw in enumerate(calls))


def _tool_call(raw: object, at: str) -> ToolCall:
    call = _object(raw, at)
    if call.get("type", "function") != "function":
        raise _unsupported("Only tool calls of type 'function' are supported.", f"{at}.type")
    function = _object(call.get("function"), f"{at}.function")
    _only(call, {"id", "type", "function"}, at)
    _only(function, {"name", "arguments"}, f"{at}.function")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        where = f"{at}.function.arguments"
        raise invalid(f"'{where}' must be a string of JSON.", param=where)
    return ToolCall(
        id=_text(call.get("id"), f"{at}.id"),
        name=_text(function.get("name"), f"{at}.function.name"),
        arguments=arguments,
    )


def _name(value: object, at: str) -> str | None:
    if value is None:
        return None
    name = _text(value, at)
    if len(name) > _MAX_NAME:
        raise invalid(f"'{at}' must have at most {_MAX_NAME} characters.", param=at)
    return name


def _text(value: object, at: str) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(f"'{at}' must be a non-empty string.", param=at)
    return value


def _object(value: object, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"'{at}' must be an object.", param=at)
    return cast("dict[str, Any]", value)


def _only(fields: dict[str, Any], known: Collection[str], at: str) -> None:
    """Refuse fields outside `known`, except replayed ones that are empty."""
    for key, value in fields.items():
        if key in known or (key in _EMPTY_ONLY and value in (None, "", [])):
            continue
        where = f"{at}.{key[:64]}"
        if key not in _EMPTY_ONLY:
            raise UnknownFieldError(where)
        raise _unsupported(f"The parameter '{where}' is not supported.", where)


def _unsupported(message: str, param: str) -> LmxError:
    return LmxError(ErrorKind.UNSUPPORTED_PARAMETER, message, param=param)
