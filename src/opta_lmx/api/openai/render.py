"""Chat answers as bytes: server-sent chunks with a frame encoded once, or one JSON object."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from opta_lmx.api.openai.errors import stream_body
from opta_lmx.codec.answer import CallDelta, Delta, collect
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import ToolCall, Usage

DONE = b"data: [DONE]\n\n"

_ENCODER = msgspec.json.Encoder()
_CONTENT_END = b'},"finish_reason":null}]}\n\n'
# Characters that JSON allows raw but some clients' line splitters take for line ends.
_LINE_ENDS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct, omit_defaults=True):
    id: str
    function: _Function
    type: Literal["function"] | None = None
    index: int | None = None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _CachedTokens


class _AssistantMessage(msgspec.Struct, omit_defaults=True):
    role: str
    content: str | None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int
    message: _AssistantMessage
    finish_reason: str
    logprobs: None = None


class _Completion(msgspec.Struct, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[_Choice]
    usage: _Usage
    system_fingerprint: str | None = None


class ChunkStream:
    """The chunks of one streamed answer; each method returns a whole server-sent event.

    Args:
        id: `chatcmpl-...`, the same in every chunk.
        created: seconds since the epoch, UTC.
        model: the name the caller used.
        fingerprint: what produced the answer, for `system_fingerprint`; absent if None.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the wire's own word
        created: int,
        model: str,
        *,
        fingerprint: str | None = None,
    ) -> None:
        head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        if fingerprint is not None:
            head["system_fingerprint"] = fingerprint
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._delta = self._head + b'{"index":0,"delta":{'
        self._content = self._delta + b'"content":'

    def role(self) -> bytes:
        """The first chunk: who speaks."""
        return self._delta + b'"role":"assistant","content":""' + _CONTENT_END

    def text(self, text: str) -> bytes:
        """More text."""
        return self._content + _encode(text) + _CONTENT_END

    def call(self, delta: CallDelta) -> bytes:
        """One whole tool call."""
        call = _encode([_tool_call(delta.call, delta.index)])
        return self._delta + b'"tool_calls":' + call + _CONTENT_END

    def noop(self) -> bytes:
        """A chunk that says nothing, to reset a client's watchdog (comments do not)."""
        return self._content + b'""' + _CONTENT_END

    def finish(self, reason: str) -> bytes:
        """The last chunk with a choice: why the answer ended."""
        return self._delta + b'},"finish_reason":' + _ENCODER.encode(reason) + b"}]}\n\n"

    def usage(self, usage: Usage) -> bytes:
        """The chunk after it, without choices: exact token counts."""
        return self._head + b'],"usage":' + _ENCODER.encode(_usage(usage)) + b"}\n\n"

    def error(self, error: LmxError) -> bytes:
        """An error that ends the stream; nothing of the answer follows it."""
        return b"data: " + stream_body(error) + b"\n\n"


def completion(
    *,
    id: str,  # noqa: A002 - the wire's own word
    created: int,
    model: str,
    deltas: Iterable[Delta],
    finish_reason: str,
    usage: Usage,
    fingerprint: str | None = None,
) -> bytes:
    """Return a plain answer; `content` is null where there are only tool calls.

    Args:
        id: `chatcmpl-...`.
        created: seconds since the epoch, UTC.
        model: the name the caller used.
        deltas: everything `codec.answer.Answer` returned.
        finish_reason: as `Answer.finish` says.
        usage: exact counts.
        fingerprint: what produced the answer, for `system_fingerprint`; absent if None.
    """
    text, calls = collect(deltas)
    message = _AssistantMessage(
        role="assistant",
        content=None if calls and not text else text,
        tool_calls=[_tool_call(call) for call in calls] or None,
    )
    answer = _Completion(
        id=id,
        object="chat.completion",
        created=created,
        model=model,
        choices=[_Choice(0, message, finish_reason)],
        usage=_usage(usage),
        system_fingerprint=fingerprint,
    )
    return _ENCODER.encode(answer)


def _encode(value: object) -> bytes:
    """Return JSON without line ends of any alphabet."""
    encoded = _ENCODER.encode(value)
    if not encoded.isascii():
        for raw, escaped in _LINE_ENDS:
            encoded = encoded.replace(raw, escaped)
    return encoded


def _tool_call(call: ToolCall, index: int | None = None) -> _ToolCall:
    return _ToolCall(call.id, _Function(call.name, call.arguments), "function", index)


def _usage(usage: Usage) -> _Usage:
    return _Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        _CachedTokens(usage.cached_tokens),
    )
