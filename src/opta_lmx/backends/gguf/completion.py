"""Reads the events of one `/completion` stream into exactly one `TokenOut` per token."""

from collections.abc import Iterator

import msgspec

from opta_lmx.backends.frames import Drafted, Submit, TokenOut
from opta_lmx.backends.gguf.following import GrammarFollower
from opta_lmx.backends.gguf.vocabulary import Vocabulary
from opta_lmx.core.types import FinishReason, TopLogprob

UNKNOWN_ID = -1
"""Id of a token that llama.cpp held back and whose bytes do not say which it was."""

_BROKE_OUT = "llama.cpp could not hold the answer to its grammar"
_FINISH: dict[str, FinishReason] = {"eos": "stop", "word": "stop", "limit": "length"}


class Progress(msgspec.Struct, frozen=True):
    """`done` of `total` prompt tokens are processed, `cached` of them for free, in `ms`."""

    request: int
    cached: int
    done: int
    total: int
    ms: float


class _Done(msgspec.Struct):
    total: int
    cache: int
    processed: int
    time_ms: float


class _Alternative(msgspec.Struct):
    id: int
    logprob: float
    bytes: list[int]


class _Chosen(msgspec.Struct):
    logprob: float
    bytes: list[int]
    top_logprobs: list[_Alternative]


class _Timings(msgspec.Struct):
    draft_n: int = 0
    draft_n_accepted: int = 0


class _Error(msgspec.Struct):
    message: str = "unknown error"
    code: int = 500


class _Event(msgspec.Struct):
    content: str = ""
    tokens: list[int] = []
    tokens_predicted: int = 0
    prompt_progress: _Done | None = None
    completion_probabilities: list[_Chosen] = []
    stop_type: str | None = None
    timings: _Timings | None = None
    error: _Error | None = None


class EngineAnswerError(Exception):
    """llama.cpp refused or failed a request; `bad_request` says whose fault it was."""

    def __init__(self, message: str, bad_request: bool = False) -> None:
        super().__init__(message)
        self.bad_request = bad_request


_decoder = msgspec.json.Decoder(_Event)


class CompletionReader:
    """State of one stream; `finished` once its last token is out.

    The last token carries the reason of the end, which llama.cpp tells only afterwards, so a
    token that may be the last (it has no text, or reaches a limit) is held until the next event.

    Args:
        request: whose stream it is.
        context: the window in tokens.
        words: tells which tokens llama.cpp held back.
        follower: sees to it that the answer keeps to the request's grammar. llama.cpp drops a
            grammar that it cannot read, or that grows too complex, without a word.
    """

    def __init__(
        self,
        request: Submit,
        context: int,
        words: Vocabulary,
        follower: GrammarFollower | None = None,
    ) -> None:
        self.finished = False
        self._id = request.id
        self._top = request.top_logprobs
        before = len(request.generated)
        self._limit = min(request.max_tokens - before, context - len(request.ids) - before - 1)
        self._words = words
        self._follower = follower
        self._seen = 0
        self._drafted = _Timings()
        self._held: list[TokenOut] = []

    def feed(self, data: bytes) -> Iterator[Progress | Drafted | TokenOut]:
        """Read one event's JSON.

        Raises:
            EngineAnswerError: the event reports a failure, or is none of llama.cpp's.
        """
        event = _decode(data)
        if event.timings is not None and event.timings != self._drafted:
            yield self._news_of_drafts(event.timings)
        if event.prompt_progress is not None:
            yield self._progress(event.prompt_progress)
        elif event.stop_type is not None:
            yield from self._last(event)
        else:
            yield from self._tokens(event)

    def _news_of_drafts(self, now: _Timings) -> Drafted:
        before, self._drafted = self._drafted, now
        accepted = now.draft_n_accepted - before.draft_n_accepted
        return Drafted(self._id, now.draft_n - before.draft_n, accepted)

    def _progress(self, done: _Done) -> Progress:
        return Progress(self._id, done.cache, done.processed, done.total, done.time_ms)

    def _tokens(self, event: _Event) -> Iterator[TokenOut]:
        yield from self._drain()
        count = event.tokens_predicted - self._seen
        if count <= 0 or not event.tokens:
            return
        self._seen = event.tokens_predicted
        chosen = event.completion_probabilities[-1] if event.completion_probabilities else None
        text = bytes(chosen.bytes) if chosen else event.content.encode()
        if self._follower is not None and not self._follower.take(text):
            raise EngineAnswerError(_BROKE_OUT)
        last = event.tokens[-1]
        ids = self._words.held(text, count - 1, last) or [UNKNOWN_ID] * (count - 1)
        for token in ids:
            yield TokenOut(self._id, token, b"")
        out = self._token(last, text, chosen)
        if text and self._seen < self._limit:
            yield out
        else:
            self._held.append(out)

    def _token(self, token: int, text: bytes, chosen: _Chosen | None) -> TokenOut:
        if self._top is None or chosen is None:
            return TokenOut(self._id, token, text)
        top = tuple(
            TopLogprob(other.id, other.logprob, bytes(other.bytes))
            for other in chosen.top_logprobs[: self._top]
        )
        return TokenOut(self._id, token, text, None, chosen.logprob, top)

    def _last(self, event: _Event) -> Iterator[TokenOut]:
        finish = _FINISH.get(event.stop_type or "")
        if finish is None:
            raise EngineAnswerError(f"llama.cpp ended the answer for '{event.stop_type}'")
        if self._follower is not None and finish == "stop" and not self._follower.complete:
            raise EngineAnswerError(_BROKE_OUT)
        # Tokens that ended inside a character were never sent, only counted.
        lost = max(0, event.tokens_predicted - self._seen)
        self._held += [TokenOut(self._id, UNKNOWN_ID, b"")] * lost
        if not self._held:
            raise EngineAnswerError("llama.cpp ended the answer without a last token")
        self._held[-1] = msgspec.structs.replace(self._held[-1], finish=finish)
        self.finished = True
        yield from self._drain()

    def _drain(self) -> Iterator[TokenOut]:
        held, self._held = self._held, []
        yield from held


class BeginningReader:
    """State of a stream that only processes the beginning of a request's prompt.

    Args:
        request: whose it is.
        upto: how many tokens.
        total: tokens of the whole prompt.
    """

    def __init__(self, request: int, upto: int, total: int) -> None:
        self.finished = False
        self._last = Progress(request, 0, 0, total, 0.0)
        self._upto = upto

    def feed(self, data: bytes) -> Iterator[Progress]:
        """Read one event's JSON.

        Raises:
            EngineAnswerError: the event reports a failure, or is none of llama.cpp's.
        """
        event = _decode(data)
        if (done := event.prompt_progress) is not None:
            self._last = msgspec.structs.replace(
                self._last, cached=done.cache, done=done.processed, ms=done.time_ms
            )
            yield self._last
        elif event.stop_type is not None:
            self.finished = True
            yield msgspec.structs.replace(self._last, done=self._upto, ms=0.0)


def failure(status: int, body: bytes) -> EngineAnswerError:
    """Turn an HTTP error answer into the exception of its request."""
    try:
        error = msgspec.json.decode(body, type=_Event).error or _Error()
    except msgspec.DecodeError:
        error = _Error(f"llama.cpp answered with status {status}", status)
    return EngineAnswerError(error.message, bad_request=400 <= status < 500)


def _decode(data: bytes) -> _Event:
    try:
        event = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise EngineAnswerError(f"llama.cpp sent an event that cannot be read: {error}") from error
    if event.error is not None:
        code = event.error.code
        raise EngineAnswerError(event.error.message, bad_request=400 <= code < 500)
    return event
