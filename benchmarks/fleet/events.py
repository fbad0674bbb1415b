"""Streamed answers of three dialects, read into text, usage and failures."""

from typing import Any

import msgspec


class Usage(msgspec.Struct):
    """Token counts under the names of all dialects; what one does not send stays None."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: dict[str, Any] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: dict[str, Any] | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Holder(msgspec.Struct):
    """A response or a message inside an event."""

    usage: Usage | None = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    choices: list[_Choice] = []
    delta: _Delta | str | None = None
    usage: Usage | None = None
    response: _Holder | None = None
    message: _Holder | str | None = None
    error: Any = None


class Piece(msgspec.Struct):
    """What one event brought: `text` is what the model said, `spoke` true also for calls."""

    text: str = ""
    spoke: bool = False
    usage: Usage | None = None
    error: str = ""
    last: bool = False


_decoder = msgspec.json.Decoder(_Event)
_SPOKEN = ("response.output_text.delta", "response.reasoning_text.delta")
_ARGUMENTS = "response.function_call_arguments.delta"
_ENDS = ("response.completed", "response.incomplete", "response.failed", "message_stop")


def read(data: bytes) -> Piece:
    """One event of any dialect. Raises msgspec.DecodeError for what is no event."""
    if data == b"[DONE]":
        return Piece(last=True)
    event = _decoder.decode(data)
    piece = Piece(usage=event.usage, last=event.type in _ENDS)
    if event.error is not None or event.type == "error":
        piece.error = msgspec.json.encode(event.error or data.decode("utf-8", "replace")).decode()
    for holder in (event.response, event.message):
        if isinstance(holder, _Holder):
            piece.usage = holder.usage or piece.usage
            if holder.error is not None:
                piece.error = msgspec.json.encode(holder.error).decode()
    _words(event, piece)
    return piece


def _words(event: _Event, piece: Piece) -> None:
    if isinstance(event.delta, str):
        piece.spoke = bool(event.delta) and event.type in (*_SPOKEN, _ARGUMENTS)
        piece.text = event.delta if event.type == _SPOKEN[0] else ""
    elif event.delta is not None:
        delta = event.delta
        piece.text = delta.text or ""
        piece.spoke = bool(delta.text or delta.thinking or delta.partial_json)
    for choice in event.choices:
        if (delta := choice.delta) is not None:
            piece.text += delta.content or ""
            piece.spoke |= bool(delta.content or delta.reasoning_content or delta.tool_calls)


class Counts(msgspec.Struct, frozen=True):
    """What an answer says it cost; None where it does not say."""

    prompt: int | None = None
    cached: int | None = None
    completion: int | None = None


def counts_of(parts: list[Usage]) -> Counts:
    """Sum up the usage of one answer, which a dialect may spread over several events."""
    total = Counts()
    for part in parts:
        prompt, cached = part.prompt_tokens, _detail(part.prompt_tokens_details)
        if part.input_tokens is not None:
            prompt, cached = part.input_tokens, _detail(part.input_tokens_details)
        if part.cache_read_input_tokens is not None:
            # This dialect's input tokens are those that did not come from the cache.
            cached = part.cache_read_input_tokens
            prompt = (prompt or 0) + cached + (part.cache_creation_input_tokens or 0)
        spoken = part.completion_tokens if part.output_tokens is None else part.output_tokens
        total = Counts(
            total.prompt if prompt is None else prompt,
            total.cached if cached is None else cached,
            total.completion if spoken is None else spoken,
        )
    return total


def _detail(details: dict[str, Any] | None) -> int | None:
    value = (details or {}).get("cached_tokens")
    return value if isinstance(value, int) else None
