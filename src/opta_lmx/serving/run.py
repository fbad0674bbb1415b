"""One model call from prepared prompt to last token, accounted for however it ends."""

import asyncio
import functools
from types import TracebackType
from typing import Self

import msgspec

from opta_lmx.backends.frames import Prepared, Ready, Submit, TokenOut
from opta_lmx.codec.constraints import answer_grammar
from opta_lmx.codec.limits import context_exceeded
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.pauses import TakesLong, no_long_pauses
from opta_lmx.core.principal import Caller
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import (
    DEFAULT_SAMPLING,
    NO_PLACES,
    Accepted,
    FinishReason,
    GenerationRequest,
    Places,
    TokenEvent,
    Usage,
)
from opta_lmx.engine.runtime import ModelRuntime
from opta_lmx.engine.stream import TokenStream
from opta_lmx.engine.worker import StepTimes
from opta_lmx.scheduling.rules import Position
from opta_lmx.serving.features import check_features, fingerprint
from opta_lmx.serving.patience import Patience

_SEED_STRIDE = 0x9E3779B97F4A7C15
_SEED_RANGE = 1 << 63


class RunLimits(msgspec.Struct, frozen=True):
    """How long a call may wait before it runs (s), and its answer limit by default (tokens)."""

    queue_deadline_s: float
    default_max_tokens: int | None = None


class Timing(msgspec.Struct, frozen=True):
    """What one answer has taken so far, in seconds.

    `load_s`: until the model served; `prompt_s`: from the slot to the first token; `answer_s`:
    from there to the newest.
    """

    load_s: float = 0.0
    prompt_s: float = 0.0
    answer_s: float = 0.0


class ModelRun:
    """An asynchronous iterator of `TokenEvent`; `open` it first, close it always.

    Args:
        runtime: the model.
        ticket: its place in the model's line.
        request: what to generate.
        limits: waiting and answer bounds.
        ports: clock and telemetry.
    """

    def __init__(
        self,
        runtime: ModelRuntime,
        ticket: int,
        request: GenerationRequest,
        limits: RunLimits,
        ports: tuple[Clock, Telemetry],
    ) -> None:
        self._runtime = runtime
        self._ticket = ticket
        self._request = request
        self._limits = limits
        self._clock, self._telemetry = ports
        retry_after = functools.partial(runtime.retry_after, ticket)
        self._patience = Patience(limits.queue_deadline_s, retry_after, self._clock)
        self._opened_at = self._patience.began_at
        self.created_s = self._clock.now_ms() // 1000
        self._ready_at = self._dispatched_at = self._last_token_at = self._opened_at
        self._first_token_at: float | None = None
        self.submission: Submit | None = None
        self.places = NO_PLACES
        self._stream: TokenStream | None = None
        self._completion_tokens = 0
        self._closed = False
        self._index = 0
        self.stopped = False
        self.prompt_tokens = 0
        self.finish_reason: FinishReason | None = None

    async def open(self) -> Accepted:
        """Second gate: exact tokens against the context. Waits while the model loads.

        Raises:
            LmxError: the prompt cannot be rendered or does not fit, or the model is gone.
        """
        ready, prepared = await self._prepare()
        submission = self._resolve(ready, prepared)
        grammar = await self._grammar(ready, prepared)
        self.submission = msgspec.structs.replace(submission, grammar=grammar)
        self.prompt_tokens = len(prepared.ids)
        self.places = Places(prepared.cuts, prepared.anchors)
        return Accepted(
            model=self._runtime.plan.ref,
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.submission.max_tokens,
            speech=ready.speech,
            thinking=prepared.thinking,
            prompt_text=prepared.text,
            sampling=self.submission.sampling,
            fingerprint=fingerprint(
                self._runtime.plan, ready, self._request.filled_by, self._request.adapter
            ),
        )

    async def measure(self) -> int:
        """Tokens of the prompt, whether they fit or not. Raises what `open` raises besides."""
        ready, prepared = await self._prepare()
        if prepared.at_least:
            raise self._too_long(ready, prepared)
        return len(prepared.ids)

    async def _prepare(self) -> tuple[Ready, Prepared]:
        async with self._patience.waiting():
            ready = await self._runtime.until_ready()
            self._ready_at = self._clock.monotonic()
            prepared = await self._runtime.prepare(
                self._ticket, self._request.prompt, echo=self._request.echo
            )
        return ready, prepared

    def follow(self, leader: "ModelRun", index: int) -> None:
        """Take over what `leader.open` found out: the same request's answer number `index`."""
        assert leader.submission is not None
        sampling = leader.submission.sampling
        if sampling.seed is not None:
            seed = (sampling.seed + index * _SEED_STRIDE) % _SEED_RANGE
            sampling = msgspec.structs.replace(sampling, seed=seed)
        self.submission = msgspec.structs.replace(
            leader.submission, id=self._ticket, sampling=sampling
        )
        self.prompt_tokens = leader.prompt_tokens
        self.places = leader.places
        self._index = index

    @property
    def limit(self) -> int | None:
        """The bound of its answer that anybody set, in tokens; None: only the window does."""
        return self._request.max_tokens or self._limits.default_max_tokens

    def _resolve(self, ready: Ready, prepared: Prepared) -> Submit:
        """Fix every parameter; an answer limit beyond the window ends there with `length`."""
        wanted = self.limit
        if prepared.at_least:
            raise self._too_long(ready, prepared, wanted or 1)
        room = self._answer_room(ready, prepared)
        if room < 1:
            raise self._too_long(ready, prepared, wanted or 1)
        defaults = (self._runtime.plan.sampling, ready.sampling, DEFAULT_SAMPLING)
        check_features(self._request, ready)
        return Submit(
            id=self._ticket,
            ids=prepared.ids,
            sampling=self._request.sampling.resolve(*defaults),
            max_tokens=min(room, wanted or room),
            top_logprobs=self._request.top_logprobs,
            logit_bias=self._request.logit_bias,
            adapter=self._request.adapter,
        )

    async def _grammar(self, ready: Ready, prepared: Prepared) -> str | None:
        if "grammar" in ready.lacks:  # who needs one was refused; a single call is cut off instead
            return None
        arguments = (self._request, ready.speech, prepared.thinking)
        try:
            with no_long_pauses():
                return answer_grammar(*arguments)
        except TakesLong:  # its schemas were judged, but so long ago that they are forgotten
            return await asyncio.to_thread(answer_grammar, *arguments)

    def _answer_room(self, ready: Ready, prepared: Prepared) -> int:
        """Tokens of answer that the window and the memory for caches leave to this prompt."""
        prompt, line = len(prepared.ids), self._runtime.line
        room = self._window(ready) - prompt
        if room < 1 or line.room is None:
            return room
        principal = line.caller(self._ticket).principal
        return min(room, line.room.answer_room(principal, prompt, self._param) or room)

    def _window(self, ready: Ready) -> int:
        """Tokens of the longest request that could run, whosever it is."""
        room = self._runtime.line.room
        return ready.context if room is None else min(ready.context, room.books.longest())

    def _too_long(self, ready: Ready, prepared: Prepared, answer: int = 0) -> LmxError:
        prompt, room = prepared.at_least or len(prepared.ids), self._runtime.line.room
        window = self._window(ready)
        return context_exceeded(
            window,
            prompt,
            answer,
            exact=not prepared.at_least,
            param=self._param,
            why=room.books.why(prompt) if room is not None and window < ready.context else "",
        )

    @property
    def _param(self) -> str:
        """The request field that holds the prompt."""
        return "messages" if self._request.prompt.messages else "prompt"

    def __aiter__(self) -> "ModelRun":
        return self

    async def __anext__(self) -> TokenEvent:
        """Next token; the first call waits in line. Raises the typed error that ended the call."""
        if self.finish_reason is not None or self.stopped:
            raise StopAsyncIteration
        stream = self._stream or await self._dispatch()
        token = await stream.__anext__()
        self._take(token)
        return TokenEvent(
            self._index, token.id, token.piece, token.logprob, token.top, token.finish
        )

    async def _dispatch(self) -> TokenStream:
        assert self.submission is not None
        caller, began = self._runtime.line.caller(self._ticket), self._clock.monotonic()
        async with self._patience.waiting():
            self._stream = await self._runtime.begin(self.submission, self.places)
        self._dispatched_at = self._clock.monotonic()
        waited_s = self._dispatched_at - self._opened_at
        self._telemetry.observe("queue_time_seconds", waited_s, model=self._runtime.plan.ref)
        self._note_slot(caller, self._dispatched_at - began)
        return self._stream

    def _note_slot(self, caller: Caller, waited_s: float) -> None:
        """Tell operators how long a slot was waited for, beside what steps take meanwhile."""
        model, lane = self._runtime.plan.ref, caller.lane.name.lower()
        self._telemetry.observe("slot_wait_seconds", waited_s, model=model, lane=lane)
        worker = self._runtime.worker
        times = StepTimes() if worker is None else worker.step_times
        self._telemetry.log(
            "debug",
            "slot granted",
            model=model,
            key=caller.principal.key,
            client=caller.client,
            lane=lane,
            waited_ms=round(1000 * waited_s, 2),
            decode_step_ms=round(times.decode_ms, 2),
            prefill_step_ms=round(times.prefill_ms, 2),
        )

    def _take(self, token: TokenOut) -> None:
        self._completion_tokens += 1
        self._last_token_at = self._clock.monotonic()
        if self._first_token_at is None:
            self._first_token_at = self._last_token_at
            self._telemetry.observe(
                "time_to_first_token_seconds",
                self._first_token_at - self._opened_at,
                model=self._runtime.plan.ref,
            )
        if token.finish is not None:
            self.finish_reason = token.finish

    @property
    def position(self) -> Position | None:
        """Where it stands in line; None once it runs, or waits for nothing."""
        if self.submission is None or self._closed or self.finish_reason is not None:
            return None
        return self._runtime.position(self._ticket)

    @property
    def ran(self) -> bool:
        """True once the engine has been given the request."""
        return self._stream is not None

    @property
    def usage(self) -> Usage:
        """Exact counts of what was delivered so far."""
        stream, told = self._stream, self._completion_tokens
        if stream is None:
            return Usage(self.prompt_tokens, told)
        return Usage(
            self.prompt_tokens,
            told,
            cached_tokens=stream.cached_tokens,
            drafted_tokens=stream.drafted_tokens,
            # What was accepted beyond a stop is no part of the answer.
            accepted_tokens=min(stream.accepted_tokens, told),
        )

    @property
    def timing(self) -> Timing:
        """What the answer has taken so far."""
        first = self._first_token_at
        load_s = self._ready_at - self._opened_at
        if first is None:
            return Timing(load_s)
        return Timing(load_s, first - self._dispatched_at, self._last_token_at - first)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the client's side now; the slot follows when the worker has let go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self.finish_reason is None:
            self._runtime.leave(
                self._ticket,
                keep=self._completion_tokens,
                submitted=self._stream is not None,
            )
        self._account()

    def _account(self) -> None:
        if self._stream is None:
            return
        model = self._runtime.plan.ref
        now = self._clock.monotonic()
        self._telemetry.observe("e2e_request_seconds", now - self._opened_at, model=model)
        self._telemetry.count("prompt_tokens_total", self.prompt_tokens, model=model)
        self._telemetry.count("generation_tokens_total", self._completion_tokens, model=model)
        self._account_drafts(model)
        if self._first_token_at is not None and self._completion_tokens > 1:
            mean_gap = (now - self._first_token_at) / (self._completion_tokens - 1)
            self._telemetry.observe("time_per_output_token_seconds", mean_gap, model=model)

    def _account_drafts(self, model: str) -> None:
        usage = self.usage
        if usage.drafted_tokens:
            drafted, accepted = usage.drafted_tokens, usage.accepted_tokens
            self._telemetry.count("spec_decode_num_draft_tokens_total", drafted, model=model)
            self._telemetry.count("spec_decode_num_accepted_tokens_total", accepted, model=model)
