"""Messages answers as bytes: named events with their frames encoded once, or one JSON object."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from opta_lmx.api.anthropic.errors import stream_body
from opta_lmx.api.anthropic.signatures import signature
from opta_lmx.api.exchange import Outcome
from opta_lmx.api.sse import encode, event
from opta_lmx.api.streaming import EVENT_STREAM
from opta_lmx.api.tools import arguments_object
from opta_lmx.codec.deltas import (
    CallArguments,
    CallStart,
    Collected,
    Delta,
    FinishKind,
    ReasoningDelta,
    TextDelta,
    collect,
)
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Accepted, ToolCall, Usage
from opta_lmx.serving.answering import AnswerEvent, Ended

PING = event("ping", b'{"type":"ping"}')
INVALID_JSON = "INVALID_JSON"
"""Holds the text of a call's input that is no JSON object, as Anthropic advises clients to do."""

_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
_END = b"}\n\n"

Json = dict[str, Any]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


def usage_json(usage: Usage) -> Json:
    """Token counts in Anthropic's sense: `input_tokens` is what was neither read nor written.

    What was found in the prefix cache is `cache_read_input_tokens`. Writing to the cache costs
    nothing here, so `cache_creation_input_tokens` is always 0.
    """
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "server_tool_use": None,
    }


class MessagesRendering:
    """One answer, streamed or plain; see `api.exchange.Rendering`.

    Args:
        id: `msg_...`.
        model: the name the caller used.
        hide_thinking: thinking is put into its block's signature only.
    """

    media_type = EVENT_STREAM

    def __init__(self, id: str, model: str, *, hide_thinking: bool = False) -> None:  # noqa: A002
        self._id = id
        self._model = model
        self._hide = hide_thinking
        self._introduced = False
        self._blocks = _Blocks(hide_thinking=hide_thinking)
        self._end: Ended | None = None

    # --- streamed -------------------------------------------------------------

    def waiting(self) -> bytes:
        """The message begins before its prompt is counted: the last event tells the counts."""
        return self._begin(0)

    def noop(self) -> bytes:
        """A ping."""
        return PING

    def opened(self, accepted: Accepted) -> bytes:
        """The message begins, if it has not yet."""
        return b"" if self._introduced else self._begin(accepted.prompt_tokens)

    def _begin(self, prompt_tokens: int) -> bytes:
        self._introduced = True
        message = self._message([], None, None, Usage(prompt_tokens, 0))
        return event("message_start", encode({"type": "message_start", "message": message})) + PING

    def event(self, event: AnswerEvent) -> bytes:
        """More of the answer; its end closes the last block."""
        if isinstance(event, Ended):
            self._end = event
            return self._blocks.close()
        match event.delta:
            case TextDelta(text):
                return self._blocks.text(text)
            case ReasoningDelta(text):
                return self._blocks.thinking(text)
            case CallStart(_, id, name):
                return self._blocks.call(id, name)
            case CallArguments(_, text):
                return self._blocks.input(text)

    def finished(self, usage: Usage) -> bytes:
        """Why it ended, the counts, and the end of the stream."""
        assert self._end is not None, "an answer that did not end raised"
        reason, sequence = _stop(self._end.finish, self._end.stop_sequence, cut=self._blocks.cut)
        delta = {
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": None,
            "container": None,
        }
        body = {"type": "message_delta", "delta": delta, "usage": usage_json(usage)}
        return event("message_delta", encode(body)) + event(
            "message_stop", b'{"type":"message_stop"}'
        )

    def failed(self, error: LmxError) -> bytes:
        """An error that ends the stream; nothing of the answer follows it."""
        return event("error", stream_body(error))

    # --- plain ----------------------------------------------------------------

    def whole(self, outcome: Outcome) -> bytes:
        """The plain answer."""
        (choice,) = outcome.choices
        content = [
            block
            for block in (self._block(collect(run)) for run in _runs(choice.deltas))
            if block is not None
        ]
        calls = choice.collected.calls
        cut = bool(calls) and _is_cut(calls[-1].arguments)
        reason, sequence = _stop(choice.finish, choice.stop_sequence, cut=cut)
        return encode(self._message(content, reason, sequence, outcome.usage))

    def _block(self, said: Collected) -> Json | None:
        """The block of one run; None where nothing was said."""
        if said.reasoning:
            return _thinking_block(said.reasoning, hide=self._hide)
        if said.text:
            return {"type": "text", "text": said.text, "citations": None}
        return next((_call_block(call.id, call.name, _input(call)) for call in said.calls), None)

    def _message(
        self, content: list[Json], reason: StopReason | None, sequence: str | None, usage: Usage
    ) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": None,
            "container": None,
            "diagnostics": None,
            "usage": {
                **usage_json(usage),
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 0,
                    "ephemeral_1h_input_tokens": 0,
                },
                "inference_geo": None,
                "service_tier": "standard",
                "speed": None,
            },
        }


class _Blocks:
    """The content blocks of a streamed answer: at most one is open."""

    def __init__(self, *, hide_thinking: bool) -> None:
        self._hide = hide_thinking
        self._index = -1
        self._kind = ""
        self._head = b""
        self._parts: list[str] = []
        self.cut = False

    def text(self, text: str) -> bytes:
        opening = b"" if self._kind == "text" else self._open(_TEXT)
        return opening + self._head + b'{"type":"text_delta","text":' + encode(text) + b"}" + _END

    def thinking(self, text: str) -> bytes:
        opening = b"" if self._kind == "thinking" else self._open(_thinking_block("", hide=None))
        self._parts.append(text)
        if self._hide:
            return opening
        delta = b'{"type":"thinking_delta","thinking":' + encode(text) + b"}"
        return opening + self._head + delta + _END

    def call(self, id: str, name: str) -> bytes:  # noqa: A002
        return self._open(_call_block(id, name, {}))

    def input(self, text: str) -> bytes:
        self._parts.append(text)
        delta = b'{"type":"input_json_delta","partial_json":' + encode(text) + b"}"
        return self._head + delta + _END

    def _open(self, block: Json) -> bytes:
        closing = self.close()
        self._index += 1
        self._kind = block["type"]
        self._head = _DELTA % self._index
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return closing + event("content_block_start", encode(start))

    def close(self) -> bytes:
        """End the open block, if any."""
        if not self._kind:
            return b""
        said = "".join(self._parts)
        self._parts.clear()
        signed = b""
        if self._kind == "thinking":
            value = encode(signature(said, carry=self._hide))
            signed = self._head + b'{"type":"signature_delta","signature":' + value + b"}" + _END
        self.cut = self._kind == "tool_use" and _is_cut(said)
        self._kind = ""
        stop = b'{"type":"content_block_stop","index":%d}' % self._index
        return signed + event("content_block_stop", stop)


def _runs(deltas: Sequence[Delta]) -> Iterator[list[Delta]]:
    """Split an answer where a streamed one begins a new block, so that both have the same."""
    run: list[Delta] = []
    for delta in deltas:
        if run and not _goes_on(run[-1], delta):
            yield run
            run = []
        run.append(delta)
    if run:
        yield run


def _goes_on(last: Delta, delta: Delta) -> bool:
    return isinstance(delta, CallArguments) or (
        type(delta) is type(last) and not isinstance(delta, CallStart)
    )


_TEXT: Json = {"type": "text", "text": "", "citations": None}


def _thinking_block(text: str, *, hide: bool | None) -> Json:
    """A whole block; one that is only begun has no signature yet (`hide` is None)."""
    signed = "" if hide is None else signature(text, carry=hide)
    return {"type": "thinking", "thinking": "" if hide else text, "signature": signed}


def _call_block(call_id: str, name: str, given: Json) -> Json:
    return {
        "type": "tool_use",
        "id": f"toolu_{call_id}",
        "name": name,
        "input": given,
        "caller": {"type": "direct"},
        "toolset_name": None,
    }


def _input(call: ToolCall) -> Json:
    given = arguments_object(call.arguments)
    return {INVALID_JSON: call.arguments} if given is None else given


def _is_cut(arguments: str) -> bool:
    """Only a call that was cut has an input that is no JSON object."""
    return arguments_object(arguments) is None


def _stop(finish: FinishKind, sequence: str | None, *, cut: bool) -> tuple[StopReason, str | None]:
    """Anthropic's stop reason, and the stop sequence that was met."""
    if finish == "tool_calls":
        # A call without its end must not be carried out.
        return ("max_tokens" if cut else "tool_use"), None
    if finish == "length":
        return "max_tokens", None
    return ("end_turn" if sequence is None else "stop_sequence"), sequence
