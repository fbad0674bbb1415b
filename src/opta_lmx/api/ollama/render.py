"""Answers in Ollama's shapes: one JSON object a line, or a single one."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from opta_lmx.api.exchange import Outcome
from opta_lmx.api.ollama.errors import stream_line
from opta_lmx.api.sse import encode
from opta_lmx.api.streaming import JSON_LINES
from opta_lmx.api.tokens import token_json
from opta_lmx.api.tools import arguments_object
from opta_lmx.api.values import timestamp
from opta_lmx.codec.deltas import (
    CallArguments,
    CallStart,
    Delta,
    FinishKind,
    ReasoningDelta,
    TextDelta,
)
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Accepted, TokenEvent, ToolCall, Usage
from opta_lmx.serving.answering import AnswerEvent, Ended
from opta_lmx.serving.run import Timing

Json = dict[str, Any]


class Said(msgspec.Struct, frozen=True):
    """A piece of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Json, ...] = ()


Shape = Callable[[Said], Json]
"""How a route says it: the fields beside model, time and counts."""


def chat_shape(said: Said) -> Json:
    """The fields of `/api/chat`."""
    message: Json = {"role": "assistant", "content": said.text}
    if said.thinking:
        message["thinking"] = said.thinking
    if said.calls:
        message["tool_calls"] = list(said.calls)
    return {"message": message}


def generate_shape(said: Said) -> Json:
    """The fields of `/api/generate`."""
    fields: Json = {"response": said.text}
    if said.thinking:
        fields["thinking"] = said.thinking
    return fields


class OllamaRendering:
    """One answer, streamed or plain; see `api.exchange.Rendering`.

    Args:
        model: the name the client used.
        shape: `chat_shape` or `generate_shape`.
        clock: tells the time of each line, and how long the whole took.
        timing: what the answer has taken so far.
    """

    media_type = JSON_LINES

    def __init__(
        self, model: str, shape: Shape, clock: Clock, timing: Callable[[], Timing]
    ) -> None:
        self._model = model
        self._shape = shape
        self._clock = clock
        self._timing = timing
        self._began = clock.monotonic()
        self._calls: list[tuple[CallStart, list[str]]] = []
        self._made = 0
        self._finish: FinishKind = "stop"

    def waiting(self) -> bytes:
        """An empty piece, before the call is accepted."""
        return self._line(Said())

    def noop(self) -> bytes:
        """A line that says nothing."""
        return self._line(Said())

    def opened(self, accepted: Accepted) -> bytes:  # noqa: ARG002 - nothing of it is told
        """An empty piece: the answer is on its way."""
        return self._line(Said())

    def event(self, event: AnswerEvent) -> bytes:
        """More of the answer; calls are told whole, as they become complete."""
        if isinstance(event, Ended):
            self._finish = event.finish
            return self._line(Said(calls=calls)) if (calls := self._completed()) else b""
        said = self._said(event.delta)
        return b"" if said is None else self._line(said, event.tokens)

    def _said(self, delta: Delta) -> Said | None:
        match delta:
            case TextDelta(text):
                return Said(text, calls=self._completed())
            case ReasoningDelta(text):
                return Said(thinking=text, calls=self._completed())
            case CallStart():
                calls = self._completed()
                self._calls.append((delta, []))
                return Said(calls=calls) if calls else None
            case CallArguments(_, text):
                self._calls[-1][1].append(text)
                return None

    def _completed(self) -> tuple[Json, ...]:
        """The calls that no longer grow."""
        whole = [ToolCall(start.id, start.name, "".join(text)) for start, text in self._calls]
        self._calls.clear()
        rendered = _calls(whole, self._made)
        self._made += len(rendered)
        return rendered

    def _line(self, said: Said, tokens: Sequence[TokenEvent] = ()) -> bytes:
        fields = {**self._head(), **self._shape(said), "done": False}
        if tokens:
            fields["logprobs"] = _logprobs(tokens)
        return encode(fields) + b"\n"

    def _head(self) -> Json:
        return {"model": self._model, "created_at": timestamp(self._clock.now_ms())}

    def finished(self, usage: Usage) -> bytes:
        """The last line: why the answer ended, what it took."""
        fields = {**self._head(), **self._shape(Said()), **self._end(self._finish, usage)}
        return encode(fields) + b"\n"

    def failed(self, error: LmxError) -> bytes:
        """An error that ends the stream; nothing of the answer follows it."""
        return stream_line(error)

    def whole(self, outcome: Outcome) -> bytes:
        """The plain answer."""
        choice = outcome.choices[0]
        one = choice.collected
        said = Said(one.text, one.reasoning, _calls(one.calls))
        fields = {**self._head(), **self._shape(said)}
        if choice.tokens:
            fields["logprobs"] = _logprobs(choice.tokens)
        return encode({**fields, **self._end(choice.finish, outcome.usage)})

    def _end(self, finish: FinishKind, usage: Usage) -> Json:
        timing = self._timing()
        return {
            "done": True,
            "done_reason": "length" if finish == "length" else "stop",
            "total_duration": nanoseconds(self._clock.monotonic() - self._began),
            "load_duration": nanoseconds(timing.load_s),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_cached_count": usage.cached_tokens,
            "prompt_eval_duration": nanoseconds(timing.prompt_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": nanoseconds(timing.answer_s),
        }


def nothing_said(model: str, shape: Shape, now_ms: int, reason: str) -> bytes:
    """The answer to a call that only loads or unloads the model."""
    head = {"model": model, "created_at": timestamp(now_ms)}
    return encode({**head, **shape(Said()), "done": True, "done_reason": reason})


def nanoseconds(seconds: float) -> int:
    """Ollama's unit of durations."""
    return round(seconds * 1e9)


def _calls(calls: Sequence[ToolCall], first: int = 0) -> tuple[Json, ...]:
    """Calls with their arguments as objects; one that was cut within them cannot be told."""
    rendered: list[Json] = []
    for call in calls:
        arguments = arguments_object(call.arguments)
        if arguments is not None:
            place = first + len(rendered)
            function = {"index": place, "name": call.name, "arguments": arguments}
            rendered.append({"id": call.id, "function": function})
    return tuple(rendered)


def _logprobs(tokens: Sequence[TokenEvent]) -> list[Json]:
    return [
        {
            **token_json(token.piece, token.logprob),
            **(
                {"top_logprobs": [token_json(one.piece, one.logprob) for one in token.top]}
                if token.top
                else {}
            ),
        }
        for token in tokens
    ]
