"""One model call from prepared prompt to last token, accounted for however it ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

import msgspec

from opta_lmx.backends.frames import Prepared, Ready, Submit, TokenOut
from opta_lmx.codec.limits import context_exceeded
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import (
    DEFAULT_SAMPLING,
    Accepted,
    FinishReason,
    GenerationRequest,
    TokenEvent,
    Usage,
)
from opta_lmx.engine.runtime import ModelRuntime
from opta_lmx.engine.stream import TokenStream


class RunLimits(msgspec.Struct, frozen=True):
    """How long a call may wait before it runs (s), and its answer limit by default (tokens)."""

    queue_deadline_s: float
    default_max_tokens: int | None = None


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
        self._opened_at = self._clock.monotonic()
        self.created_s = self._clock.now_ms() // 1000
        self._first_token_at: float | None = None
        self._submission: Submit | None = None
        self._stream: TokenStream | None = None
        self._completion_tokens = 0
        self._closed = False
        self.prompt_tokens = 0
        self.finish_reason: FinishReason | None = None

    async def open(self) -> Accepted:
        """Second gate: exact tokens against the context. Waits while the model loads.

        Raises:
            LmxError: the prompt cannot be rendered or does not fit, or the model is gone.
        """
        async with self._patience():
            ready = await self._runtime.until_ready()
            prepared = await self._runtime.prepare(self._ticket, self._request.prompt)
        self._submission = self._resolve(ready, prepared)
        self.prompt_tokens = len(prepared.ids)
        return Accepted(
            self._runtime.plan.ref,
            self.prompt_tokens,
            self._submission.max_tokens,
            ready.tool_dialect,
        )

    def _resolve(self, ready: Ready, prepared: Prepared) -> Submit:
        """Fix every parameter; an answer limit beyond the window ends there with `length`."""
        wanted = self._request.max_tokens or self._limits.default_max_tokens
        if prepared.at_least:
            raise context_exceeded(ready.context, prepared.at_least, wanted or 1, exact=False)
        room = ready.context - len(prepared.ids)
        if room < 1:
            raise context_exceeded(ready.context, len(prepared.ids), wanted or 1)
        defaults = (self._runtime.plan.sampling, ready.sampling, DEFAULT_SAMPLING)
        return Submit(
            id=self._ticket,
            ids=prepared.ids,
            sampling=self._request.sampling.resolve(*defaults),
            max_tokens=min(room, wanted or room),
            top_logprobs=self._request.top_logprobs,
        )

    def __aiter__(self) -> "ModelRun":
        return self

    async def __anext__(self) -> TokenEvent:
        """Next token; the first call waits in line. Raises the typed error that ended the call."""
        if self.finish_reason is not None:
            raise StopAsyncIteration
        stream = self._stream or await self._dispatch()
        token = await stream.__anext__()
        self._take(token)
        return TokenEvent(0, token.id, token.piece, token.logprob, token.top)

    async def _dispatch(self) -> TokenStream:
        assert self._submission is not None
        async with self._patience():
            await self._runtime.turn(self._ticket)
        waited = self._clock.monotonic() - self._opened_at
        self._telemetry.observe("queue_time_seconds", waited, model=self._runtime.plan.ref)
        self._stream = self._runtime.submit(self._submission)
        return self._stream

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncGenerator[None]:
        """Bound all waiting of the call, from its arrival on, by one deadline."""
        waited_s = self._clock.monotonic() - self._opened_at
        try:
            async with asyncio.timeout(self._limits.queue_deadline_s - waited_s):
                yield
        except TimeoutError:
            raise LmxError(
                ErrorKind.UNAVAILABLE,
                "The request waited too long for its turn.",
                code="queue_timeout",
                retry_after=self._runtime.line.retry_after(),
            ) from None

    def _take(self, token: TokenOut) -> None:
        self._completion_tokens += 1
        if self._first_token_at is None:
            self._first_token_at = self._clock.monotonic()
            self._telemetry.observe(
                "time_to_first_token_seconds",
                self._first_token_at - self._opened_at,
                model=self._runtime.plan.ref,
            )
        if token.finish is not None:
            self.finish_reason = token.finish

    @property
    def usage(self) -> Usage:
        """Exact counts of what was delivered so far."""
        cached = 0 if self._stream is None else self._stream.cached_tokens
        return Usage(self.prompt_tokens, self._completion_tokens, cached)

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
        if self._first_token_at is not None and self._completion_tokens > 1:
            mean_gap = (now - self._first_token_at) / (self._completion_tokens - 1)
            self._telemetry.observe("time_per_output_token_seconds", mean_gap, model=model)
