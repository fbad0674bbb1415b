"""The JSON frames of `/v1/chat/stream`: what a client sends, read strictly, and what it is told."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar, cast

import msgspec
from pydantic import StringConstraints

from opta_lmx.api.errors import RenderError
from opta_lmx.api.fields import BodyReader, WireModel, validated
from opta_lmx.api.json_body import decode, decode_object
from opta_lmx.api.tokens import queue_json, token_logprobs, usage_json
from opta_lmx.core.errors import LmxError, invalid, unsupported
from opta_lmx.core.types import GenerationRequest, TokenEvent, ToolCall, Usage
from opta_lmx.scheduling.rules import Position

MAX_REQUEST_ID = 128
MAX_CONTROL_BYTES = 4096
"""Of a frame that only asks for a pong or cancels."""
_MAX_HEAD_BYTES = 1024

RequestId = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_REQUEST_ID, pattern=r"^[!-~]+$")
]

_ENCODER = msgspec.json.Encoder()


class ChatCall(Protocol):
    """A parsed chat request, as far as this surface looks at it."""

    @property
    def request(self) -> GenerationRequest:
        """What to generate."""
        ...

    @property
    def stream(self) -> bool:
        """Whether text is wanted as it is generated."""
        ...


class ChatDialect(msgspec.Struct, frozen=True):
    """What this surface borrows from the chat dialect of HTTP.

    `parse` reads the decoded fields of a chat request; `render_error` gives an error's envelope.
    """

    parse: Callable[[dict[str, Any]], ChatCall]
    render_error: RenderError


class CancelFrame(WireModel):
    """Ends a request, queued or running."""

    type: str
    request_id: RequestId


class PingFrame(WireModel):
    """Asks for a `pong`."""

    type: str


_Control = TypeVar("_Control", CancelFrame, PingFrame)


class _Ids(WireModel):
    request_id: RequestId | None = None


class Head(msgspec.Struct, frozen=True):
    """The first look at a frame; the rest of it is not read yet."""

    type: str
    request_id: str | None


class _RawHead(msgspec.Struct):
    # Not decoded with the frame: both may be anything, and of any size.
    type: msgspec.Raw = msgspec.Raw(b"null")
    request_id: msgspec.Raw = msgspec.Raw(b"null")


_head_decoder = msgspec.json.Decoder(_RawHead)


def read_head(body: bytes) -> Head:
    """Read type and request id.

    Raises:
        LmxError: INVALID_REQUEST; no JSON object, or a type or id that is none.
    """
    raw = decode(body, _head_decoder)
    kind = _short(raw.type)
    if not isinstance(kind, str):
        raise invalid("The frame's 'type' must be a string.", param="type")
    ids = validated(_Ids, {"request_id": _short(raw.request_id)})
    return Head(kind, ids.request_id)


def _short(raw: msgspec.Raw) -> object:
    """The value, or one that is no text where it is longer than any type or id."""
    return msgspec.json.decode(raw) if len(bytes(raw)) <= _MAX_HEAD_BYTES else ()


def read_cancel(body: bytes) -> str:
    """Read a `chat.cancel` frame; the id of the request. Raises LmxError."""
    return _control(CancelFrame, body).request_id


def check_ping(body: bytes) -> None:
    """Read a `ping` frame. Raises LmxError."""
    _control(PingFrame, body)


def _control(kind: type[_Control], body: bytes) -> _Control:
    if len(body) > MAX_CONTROL_BYTES:
        raise invalid(f"Such a frame has at most {MAX_CONTROL_BYTES} bytes.", param="type")
    return validated(kind, decode_object(body))


def chat_reader(dialect: ChatDialect, *, lenient: bool) -> BodyReader[ChatCall]:
    """The reader of `chat.request` frames: any field of a chat request, streamed by default."""

    def parse(fields: dict[str, Any]) -> ChatCall:
        body = {key: fields[key] for key in fields if key not in ("type", "request_id")}
        if body.get("stream") is None:
            body["stream"] = True
        call = dialect.parse(body)
        if call.request.n > 1:
            raise unsupported("Over WebSocket there is one answer to a request.", "n")
        return call

    return BodyReader(parse, lenient=lenient)


class Frames:
    """What one request's client is told, as bytes.

    Args:
        request_id: in every frame; None for what belongs to no request.
        dialect: for errors.
    """

    def __init__(self, request_id: str | None, dialect: ChatDialect) -> None:
        self._dialect = dialect
        self._id = b',"request_id":' + _ENCODER.encode(request_id)

    def accepted(self, model: str, ignored: Sequence[str]) -> bytes:
        """The request passed the first gate and can be cancelled from here on."""
        fields: dict[str, Any] = {"model": model}
        if ignored:
            fields["ignored_fields"] = ignored
        return self._frame("chat.accepted", fields)

    def token(self, text: str, tokens: Sequence[TokenEvent]) -> bytes:
        """More of the text."""
        fields: dict[str, Any] = {"content": text}
        if tokens:
            fields["logprobs"] = {"content": token_logprobs(tokens)}
        return self._frame("chat.token", fields)

    def reasoning(self, text: str) -> bytes:
        """More of the thinking."""
        return self._frame("chat.reasoning", {"content": text})

    def tool_call(self, index: int, call: ToolCall) -> bytes:
        """A whole tool call."""
        told = {"index": index, "id": call.id, "name": call.name, "arguments": call.arguments}
        return self._frame("chat.tool_call", {"tool_call": told})

    def done(self, finish_reason: str, usage: Usage, extra: dict[str, Any]) -> bytes:
        """The request is over."""
        counts = usage_json(usage)
        return self._frame("chat.done", {"finish_reason": finish_reason, "usage": counts, **extra})

    def keepalive(self, position: Position | None) -> bytes:
        """The request still runs, or waits in line at a position."""
        fields = {} if position is None else {"queue": queue_json(position)}
        return self._frame("chat.keepalive", fields)

    def failed(self, error: LmxError) -> tuple[int, bytes]:
        """The request is over with an error; its status over HTTP, and the frame."""
        status, _, body = self._dialect.render_error(error)
        fields = cast("dict[str, Any]", msgspec.json.decode(body))
        return status, self._frame("chat.error", fields)

    def _frame(self, kind: str, fields: dict[str, Any]) -> bytes:
        rest = _ENCODER.encode(fields)[1:]
        comma = b"" if rest == b"}" else b","
        return b'{"type":"' + kind.encode() + b'"' + self._id + comma + rest


PONG = b'{"type":"pong"}'
