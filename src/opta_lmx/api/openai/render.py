"""Chat answers as bytes: server-sent chunks with a frame encoded once, or one JSON object."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from opta_lmx.api.exchange import Choice, Outcome
from opta_lmx.api.openai.errors import stream_body
from opta_lmx.api.sse import encode
from opta_lmx.api.streaming import EVENT_STREAM
from opta_lmx.api.tokens import Json, queue_json, token_logprobs, usage_json
from opta_lmx.codec.deltas import CallArguments, CallStart, ReasoningDelta, TextDelta
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Accepted, TokenEvent, ToolCall, Usage
from opta_lmx.scheduling.rules import Position
from opta_lmx.serving.answering import AnswerEvent, Ended

DONE = b"data: [DONE]\n\n"
_CHUNK_END = b"}\n\n"

_ENCODER = msgspec.json.Encoder()


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    id: str
    function: _Function
    type: Literal["function"] = "function"


class _AssistantMessage(msgspec.Struct, omit_defaults=True):
    role: str
    content: str | None
    refusal: str | msgspec.UnsetType | None = msgspec.UNSET
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Json]
    refusal: None = None


class _Choice(msgspec.Struct):
    index: int
    message: _AssistantMessage
    finish_reason: str
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[_Choice]
    usage: Json
    system_fingerprint: str | None = None


class ChatRendering:
    """One chat answer, streamed or plain; see `api.exchange.Rendering`.

    Args:
        id: `chatcmpl-...`, the same in every chunk.
        created: seconds since the epoch, UTC.
        model: the name the caller used.
        answers: how many there will be.
        include_usage: send token counts in a last chunk without choices.
        position: tells where the call stands in line, while it waits.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        id: str,  # noqa: A002 - the wire's own word
        created: int,
        model: str,
        answers: int = 1,
        *,
        include_usage: bool = False,
        position: Callable[[], Position | None] = lambda: None,
    ) -> None:
        self._base: dict[str, Any] = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._answers = answers
        self._include_usage = include_usage
        self._position = position
        self._introduced = False
        self._set_frame()

    def _set_frame(self) -> None:
        self._head = b"data: " + encode(self._base)[:-1] + b',"choices":['
        self._deltas = [
            self._head + b'{"index":%d,"delta":{' % index for index in range(self._answers)
        ]

    def waiting(self) -> bytes:
        """Who speaks, before the call is accepted."""
        self._introduced = True
        return b"".join(
            delta + b'"role":"assistant","content":""},"finish_reason":null}]}\n\n'
            for delta in self._deltas
        )

    def noop(self) -> bytes:
        """A chunk that says nothing, to reset a client's watchdog (comments do not).

        Where the call still waits, a key of ours tells how long.
        """
        chunk, position = self._chunk(0, b'"content":""'), self._position()
        if position is None:
            return chunk
        ours = b',"x_opta":' + encode({"queue": queue_json(position)})
        return chunk.removesuffix(_CHUNK_END) + ours + _CHUNK_END

    def opened(self, accepted: Accepted) -> bytes:
        """The first chunk, if it was not sent yet; from here on chunks carry the fingerprint."""
        self._base["system_fingerprint"] = accepted.fingerprint
        self._set_frame()
        return b"" if self._introduced else self.waiting()

    def event(self, event: AnswerEvent) -> bytes:
        """More of one answer, or why it ended."""
        if isinstance(event, Ended):
            reason = _ENCODER.encode(event.finish)
            return self._deltas[event.index] + b'},"finish_reason":' + reason + b"}]}\n\n"
        match event.delta:
            case TextDelta(text):
                body = b'"content":' + encode(text)
            case ReasoningDelta(text):
                body = b'"reasoning_content":' + encode(text)
            case CallStart(index, id, name):
                call = {"index": index, "id": id, "type": "function"}
                body = _calls({**call, "function": {"name": name, "arguments": ""}})
            case CallArguments(index, text):
                body = _calls({"index": index, "function": {"arguments": text}})
        return self._chunk(event.index, body, event.tokens)

    def _chunk(self, index: int, delta: bytes, tokens: Sequence[TokenEvent] = ()) -> bytes:
        said = b""
        if tokens:
            said = b',"logprobs":' + encode(_Logprobs(token_logprobs(tokens)))
        return self._deltas[index] + delta + b"}" + said + b',"finish_reason":null}]}\n\n'

    def finished(self, usage: Usage) -> bytes:
        """The counts, if asked for, and the end of the stream."""
        if not self._include_usage:
            return DONE
        counts = _ENCODER.encode(usage_json(usage))
        return self._head + b'],"usage":' + counts + b"}\n\n" + DONE

    def failed(self, error: LmxError) -> bytes:
        """An error that ends the stream; nothing of the answer follows it."""
        return b"data: " + stream_body(error) + b"\n\n"

    def whole(self, outcome: Outcome) -> bytes:
        """The plain answer; `content` is null where there are only tool calls."""
        answer = _Completion(
            id=self._base["id"],
            object="chat.completion",
            created=self._base["created"],
            model=self._base["model"],
            choices=[_choice(i, choice) for i, choice in enumerate(outcome.choices)],
            usage=usage_json(outcome.usage),
            system_fingerprint=outcome.accepted.fingerprint,
        )
        return _ENCODER.encode(answer)


def _calls(call: dict[str, Any]) -> bytes:
    return b'"tool_calls":' + encode([call])


def _choice(index: int, choice: Choice) -> _Choice:
    collected = choice.collected
    message = _AssistantMessage(
        role="assistant",
        content=None if collected.calls and not collected.text else collected.text,
        refusal=None,
        reasoning_content=collected.reasoning or None,
        tool_calls=[_tool_call(call) for call in collected.calls] or None,
    )
    logprobs = _Logprobs(token_logprobs(choice.tokens)) if choice.tokens else None
    return _Choice(index, message, choice.finish, logprobs)


def _tool_call(call: ToolCall) -> _ToolCall:
    return _ToolCall(call.id, _Function(call.name, call.arguments))
