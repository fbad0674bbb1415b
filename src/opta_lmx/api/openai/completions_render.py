"""Text completions as bytes: server-sent chunks, or one JSON object of the same shape."""

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from opta_lmx.api.exchange import Choice, Outcome
from opta_lmx.api.openai.completions_logprobs import LogprobWriter, TextLogprobs
from opta_lmx.api.openai.completions_parse import CompletionCall
from opta_lmx.api.openai.errors import stream_body
from opta_lmx.api.openai.render import DONE
from opta_lmx.api.sse import encode
from opta_lmx.api.streaming import EVENT_STREAM
from opta_lmx.api.tokens import Json, usage_json
from opta_lmx.codec.deltas import TextDelta
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Accepted, TokenEvent, Usage
from opta_lmx.serving.answering import AnswerEvent, Ended


class _Choice(msgspec.Struct):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[_Choice]
    system_fingerprint: str | None = None
    usage: Json | None = None


class CompletionRendering:
    """One text completion, streamed or plain; see `api.exchange.Rendering`.

    Args:
        id: `cmpl-...`, the same in every chunk.
        created: seconds since the epoch, UTC.
        call: what was asked for.
        prompts: the accepted prompts, known once the call is open.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        id: str,  # noqa: A002 - the wire's own word
        created: int,
        call: CompletionCall,
        prompts: Callable[[], Sequence[Accepted]],
    ) -> None:
        self._frame = _Completion(id, "text_completion", created, call.requests[0].model, [])
        self._call = call
        self._prompts = prompts
        self._opened = False
        alternatives = call.logprobs or 0
        self._logprobs = [
            LogprobWriter(alternatives) for _ in range(len(call.requests) * call.each)
        ]

    def waiting(self) -> bytes:
        """An empty piece of text, before the call is accepted."""
        self._opened = True
        return self._chunk([_Choice(0, "")])

    def noop(self) -> bytes:
        """A chunk that says nothing, to reset a client's watchdog (comments do not)."""
        return self._chunk([_Choice(0, "")])

    def opened(self, accepted: Accepted) -> bytes:
        """The echoed prompts, or else an empty piece of text if none was sent yet."""
        self._frame = msgspec.structs.replace(self._frame, system_fingerprint=accepted.fingerprint)
        if self._call.echo:
            choices = range(len(self._call.requests) * self._call.n)
            return b"".join(self._chunk([_Choice(i, self._echo(i))]) for i in choices)
        return b"" if self._opened else self.waiting()

    def _echo(self, index: int) -> str:
        if not self._call.echo:
            return ""
        return self._prompts()[index // self._call.n].prompt_text or ""

    def event(self, event: AnswerEvent) -> bytes:
        """More of one answer, or why it ended."""
        if isinstance(event, Ended):
            return self._chunk([_Choice(event.index, "", None, event.finish)])
        if not isinstance(event.delta, TextDelta):
            return b""
        said = self._said(event.index, event.tokens) if event.tokens else None
        return self._chunk([_Choice(event.index, event.delta.text, said)])

    def _said(self, index: int, tokens: Sequence[TokenEvent]) -> TextLogprobs | None:
        if self._call.logprobs is None:
            return None
        return self._logprobs[index].write(tokens)

    def _chunk(self, choices: list[_Choice], usage: Json | None = None) -> bytes:
        whole = msgspec.structs.replace(self._frame, choices=choices, usage=usage)
        return b"data: " + encode(whole) + b"\n\n"

    def finished(self, usage: Usage) -> bytes:
        """The counts, if asked for, and the end of the stream."""
        counts = self._chunk([], usage_json(usage)) if self._call.include_usage else b""
        return counts + DONE

    def failed(self, error: LmxError) -> bytes:
        """An error that ends the stream; nothing of the answer follows it."""
        return b"data: " + stream_body(error) + b"\n\n"

    def whole(self, outcome: Outcome) -> bytes:
        """The plain answer: of each prompt's answers the `n` best, where more were made."""
        made, each = [*enumerate(outcome.choices)], self._call.each
        chosen: list[tuple[int, Choice]] = []
        for first in range(0, len(made), each):
            chosen += _best(made[first : first + each], self._call.n)
        answer = msgspec.structs.replace(
            self._frame,
            choices=[self._choice(i, place, one) for i, (place, one) in enumerate(chosen)],
            system_fingerprint=outcome.accepted.fingerprint,
            usage=usage_json(outcome.usage),
        )
        return msgspec.json.encode(answer)

    def _choice(self, index: int, place: int, choice: Choice) -> _Choice:
        text = self._echo(index) + choice.collected.text
        return _Choice(index, text, self._said(place, choice.tokens), choice.finish)


def _best(made: list[tuple[int, Choice]], wanted: int) -> list[tuple[int, Choice]]:
    """The answers with the highest mean log-probability per token, best first."""
    if len(made) <= wanted:
        return made
    return sorted(made, key=lambda one: _mean(one[1].tokens), reverse=True)[:wanted]


def _mean(tokens: Sequence[TokenEvent]) -> float:
    known = [token.logprob for token in tokens if token.logprob is not None]
    return fmean(known) if known else float("-inf")
