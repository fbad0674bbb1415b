"""Input items: checked by position, completed for keeping. Nothing is dropped in silence."""

from collections.abc import Callable, Collection
from typing import Any, cast

from opta_lmx.api.responses import sealed
from opta_lmx.core.errors import LmxError, UnknownFieldError, invalid, unsupported
from opta_lmx.core.ids import random_id

Json = dict[str, Any]

REFERENCE = "item_reference"
STATUSES = ("in_progress", "completed", "incomplete")
ROLES = ("user", "assistant", "system", "developer")
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_MEDIA = frozenset({"input_image", "input_file", "input_audio", "input_video", "image_url"})
_PHASES = ("commentary", "final_answer")
_MAX_ID = 128
_MAX_ITEMS = 100_000
# Fields that only other tools and services fill; empty, they ask for nothing.
_EMPTY_ONLY = frozenset({"namespace", "caller", "async", "created_by", "prompt_cache_breakpoint"})


def read_items(given: object, at: str = "input") -> list[Json]:
    """Check the items of a request and give those an id that have none.

    Args:
        given: a text (a user's message), or decoded JSON items in order.
        at: what the request calls them; the prefix of every error's `param`.

    Raises:
        LmxError: INVALID_REQUEST for what is malformed, UNSUPPORTED_PARAMETER for what has no
            meaning here (media, items of hosted tools, unknown fields).
    """
    if given is None:
        return []
    if isinstance(given, str):
        if not given:
            raise invalid(f"'{at}' must not be empty.", param=at)
        return [_kept_message("user", [{"type": "input_text", "text": given}])]
    if not isinstance(given, list):
        raise invalid(f"'{at}' must be a string or a list of items.", param=at)
    items = cast("list[object]", given)
    if len(items) > _MAX_ITEMS:
        raise invalid(f"'{at}' must hold at most {_MAX_ITEMS} items.", param=at)
    return [_item(raw, f"{at}.{i}") for i, raw in enumerate(items)]


def _item(raw: object, at: str) -> Json:
    fields = _object(raw, at)
    kind = fields.get("type")
    if kind is None:
        kind = REFERENCE if "role" not in fields and "id" in fields else "message"
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        shown = kind if isinstance(kind, str) else "?"
        raise unsupported(f"Items of type '{shown[:64]}' are not supported.", f"{at}.type")
    return reader(fields, at)


def _message(fields: Json, at: str) -> Json:
    _only(fields, {"type", "id", "role", "content", "status", "phase"}, at)
    role = _one_of(fields.get("role"), ROLES, f"{at}.role")
    if fields.get("content") is None:
        raise invalid(f"'{at}.content' is missing.", param=f"{at}.content")
    content = _content(fields["content"], role, f"{at}.content")
    kept = _kept_message(role, content, _id(fields, "msg_", at))
    kept["status"] = _status(fields, at)
    phase = fields.get("phase")
    if phase is not None:
        kept["phase"] = _one_of(phase, _PHASES, f"{at}.phase")
    return kept


def _kept_message(role: str, content: list[Json], item_id: str | None = None) -> Json:
    return {
        "type": "message",
        "id": item_id or random_id("msg_"),
        "status": "completed",
        "role": role,
        "content": content,
    }


def _content(value: object, role: str, at: str) -> list[Json]:
    spoken = "output_text" if role == "assistant" else "input_text"
    if isinstance(value, str):
        return [_text_part(spoken, value)]
    if not isinstance(value, list):
        raise invalid(f"'{at}' must be a string or a list of parts.", param=at)
    parts = cast("list[object]", value)
    return [_part(part, role, f"{at}.{i}") for i, part in enumerate(parts)]


def _part(raw: object, role: str, at: str) -> Json:
    part = _object(raw, at)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        raise unsupported(
            f"This model reads text only: parts of type '{kind}' are not supported.", f"{at}.type"
        )
    if kind == "refusal" and role == "assistant":
        _only(part, {"type", "refusal"}, at)
        return {"type": "refusal", "refusal": _text(part.get("refusal"), f"{at}.refusal")}
    if kind not in ("input_text", "output_text", "text"):
        raise unsupported(f"'{at}.type' must be 'input_text' or 'output_text'.", f"{at}.type")
    # Annotations and log-probabilities come back with a replayed answer; they are no words.
    _only(part, {"type", "text", "annotations", "logprobs"}, at)
    spoken = "output_text" if role == "assistant" else "input_text"
    return _text_part(spoken, _text(part.get("text"), f"{at}.text"))


def _text_part(kind: str, text: str) -> Json:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "text": text}


def _function_call(fields: Json, at: str) -> Json:
    _only(fields, {"type", "id", "call_id", "name", "arguments", "status"}, at)
    return {
        "type": "function_call",
        "id": _id(fields, "fc_", at),
        "call_id": _name(fields.get("call_id"), f"{at}.call_id"),
        "name": _name(fields.get("name"), f"{at}.name"),
        "arguments": _text(fields.get("arguments"), f"{at}.arguments"),
        "status": _status(fields, at),
    }


def _function_output(fields: Json, at: str) -> Json:
    _only(fields, {"type", "id", "call_id", "name", "output", "status"}, at)
    output = fields.get("output")
    if isinstance(output, list):
        output = _content(cast("list[object]", output), "user", f"{at}.output")
    elif not isinstance(output, str):
        raise invalid(f"'{at}.output' must be a string or a list of parts.", param=f"{at}.output")
    return {
        "type": "function_call_output",
        "id": _id(fields, "fco_", at),
        "call_id": _name(fields.get("call_id"), f"{at}.call_id"),
        "output": output,
        "status": _status(fields, at),
    }


def _reasoning(fields: Json, at: str) -> Json:
    _only(fields, {"type", "id", "summary", "content", "encrypted_content", "status"}, at)
    kept: Json = {
        "type": "reasoning",
        "id": _id(fields, "rs_", at),
        "summary": _thoughts(fields.get("summary"), "summary_text", f"{at}.summary"),
    }
    if content := _thoughts(fields.get("content"), "reasoning_text", f"{at}.content"):
        kept["content"] = content
    packed = fields.get("encrypted_content")
    if packed is not None:
        kept["encrypted_content"] = _text(packed, f"{at}.encrypted_content")
        if not kept["summary"] and not content:
            _unsealed(kept, sealed.Thinking, at)
    _status(fields, at)
    return kept


def _thoughts(value: object, kind: str, at: str) -> list[Json]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(f"'{at}' must be a list of parts.", param=at)
    kept: list[Json] = []
    for i, raw in enumerate(cast("list[object]", value)):
        part = _object(raw, f"{at}.{i}")
        _only(part, {"type", "text"}, f"{at}.{i}")
        _one_of(part.get("type"), tuple(_TEXTS), f"{at}.{i}.type")
        kept.append({"type": kind, "text": _text(part.get("text"), f"{at}.{i}.text")})
    return kept


def _compaction(fields: Json, at: str) -> Json:
    _only(fields, {"type", "id", "encrypted_content"}, at)
    kept: Json = {
        "type": "compaction",
        "id": _id(fields, "cmp_", at),
        "encrypted_content": _text(fields.get("encrypted_content"), f"{at}.encrypted_content"),
    }
    _unsealed(kept, sealed.Compacted, at)
    return kept


def _unsealed(item: Json, wanted: type[sealed.Sealed], at: str) -> None:
    """Refuse here, by its place, what could not be opened later."""
    where = f"{at}.encrypted_content"
    if not isinstance(sealed.unseal(item["encrypted_content"], where), wanted):
        raise invalid(
            f"'{where}' belongs to another kind of item.",
            param=where,
            code="invalid_encrypted_content",
        )


def _reference(fields: Json, at: str) -> Json:
    _only(fields, {"type", "id"}, at)
    if not isinstance(fields.get("id"), str):
        raise invalid(f"'{at}.id' must be a string.", param=f"{at}.id")
    return {"type": REFERENCE, "id": fields["id"], "at": at}


_READERS: dict[str, Callable[[Json, str], Json]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_output,
    "reasoning": _reasoning,
    "compaction": _compaction,
    "compaction_summary": _compaction,
    REFERENCE: _reference,
}


def _id(fields: Json, prefix: str, at: str) -> str:
    value = fields.get("id")
    if value is None or value == "":
        return random_id(prefix)
    if not isinstance(value, str) or len(value) > _MAX_ID:
        raise invalid(f"'{at}.id' must be a string of at most {_MAX_ID}.", param=f"{at}.id")
    return value


def _status(fields: Json, at: str) -> str:
    status = fields.get("status")
    return "completed" if status is None else _one_of(status, STATUSES, f"{at}.status")


def _name(value: object, at: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise invalid(f"'{at}' must be a string of 1 to 256 characters.", param=at)
    return value


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"'{at}' must be a string.", param=at)
    return value


def _one_of(value: object, allowed: tuple[str, ...], at: str) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    names = ", ".join(f"'{name}'" for name in allowed)
    raise invalid(f"'{at}' must be one of {names}.", param=at)


def _object(value: object, at: str) -> Json:
    if not isinstance(value, dict):
        raise invalid(f"'{at}' must be an object.", param=at)
    return cast("Json", value)


def _only(fields: Json, known: Collection[str], at: str) -> None:
    for key, value in fields.items():
        if key in known or (key in _EMPTY_ONLY and value in (None, "", False)):
            continue
        raise _unknown(f"{at}.{key[:64]}", known_elsewhere=key in _EMPTY_ONLY)


def _unknown(where: str, *, known_elsewhere: bool) -> LmxError:
    if known_elsewhere:
        return unsupported(f"The parameter '{where}' is not supported.", where)
    return UnknownFieldError(where)
