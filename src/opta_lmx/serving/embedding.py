"""Embedding calls: the same gate, line and slots as every model call, vectors instead of text."""

import asyncio
import functools
from collections.abc import Callable, Sequence

import msgspec

from opta_lmx.backends.frames import Embed, Embedded, ModelKind, Ready
from opta_lmx.codec.limits import input_exceeded
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import Usage
from opta_lmx.scheduling.rules import Work
from opta_lmx.serving.patience import Patience
from opta_lmx.serving.run import RunLimits
from opta_lmx.serving.service import Ticket
from opta_lmx.serving.vectors import shortened

EMBEDDERS: tuple[ModelKind, ...] = ("embedding",)
_LETTERS = 4
"""In a token, roughly."""
Input = str | tuple[int, ...]


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """One call, whatever dialect it came in.

    `inputs` are texts, or token ids of the model's own vocabulary taken as they are, special
    ones included; with `query`, documents that it is asked of. `cut_to` asks for inputs to be
    cut at that many tokens and at the window, but for the first `uncut`; without it one too long
    is refused. `dimensions` is the width wanted. `place` names the request field of an input in
    errors, `whole` that of them all.
    """

    model: str
    inputs: tuple[Input, ...]
    cut_to: int | None = None
    dimensions: int | None = None
    query: str | None = None
    uncut: int = 0
    place: Callable[[int], str] = "input.{}".format
    whole: str = "input"


class Vectors(msgspec.Struct, frozen=True):
    """What was made: little-endian 32-bit floats for each input, and its tokens."""

    model: str
    vectors: tuple[bytes, ...]
    tokens: tuple[int, ...]

    @property
    def total_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(self.tokens)


class EmbeddingRun:
    """One call; `made` it once, close it always.

    Args:
        ticket: its place in the model's line.
        request: what to make.
        limits: waiting bounds.
        ports: clock and telemetry.
    """

    def __init__(
        self,
        ticket: Ticket,
        request: EmbeddingRequest,
        limits: RunLimits,
        ports: tuple[Clock, Telemetry],
    ) -> None:
        clock, self._telemetry = ports
        self._runtime = ticket.runtime
        self._ticket = ticket.numbers[0]
        self._budget = ticket.account
        self._request = request
        retry_after = functools.partial(self._runtime.retry_after, self._ticket)
        self._patience = Patience(limits.queue_deadline_s, retry_after, clock)
        self._submitted = False
        self._over = False
        self._tokens: int | None = None
        self._failed = False

    async def made(self) -> Vectors:
        """Wait for the model and a slot, make the vectors.

        Raises:
            LmxError: INVALID_REQUEST or CONTEXT_LENGTH_EXCEEDED naming the input; what ended
                the wait or the worker.
        """
        try:
            return await self._made()
        except LmxError:
            self._failed = True
            raise

    async def _made(self) -> Vectors:
        async with self._patience.waiting():
            ready = await self._runtime.until_ready()
            check_width(self._request.dimensions, ready)
            if self._budget.counts_prompts:
                await self._count(ready)
            await self._runtime.turn(self._ticket, _work(self._request))
        model = self._runtime.plan.ref
        self._telemetry.observe("queue_time_seconds", self._patience.waited_s, model=model)
        self._submitted = True
        request = self._request
        answer = await self._runtime.embed(self._frame())
        self._over = True
        self._check(answer, ready)
        self._tokens = sum(answer.tokens)
        self._account(self._tokens)
        # Before its client learns of the end, and may ask again.
        self._end()
        width = request.dimensions or ready.dimensions
        vectors = answer.vectors
        if width < ready.dimensions:
            vectors = await asyncio.to_thread(_all_shortened, vectors, width)
        return Vectors(model, vectors, answer.tokens)

    async def _count(self, ready: Ready) -> None:
        """Take the exact tokens of all inputs from the budgets, before anything is made of them."""
        counted = await self._runtime.embed(self._frame(count=True))
        self._check(counted, ready)
        await self._budget.charge(sum(counted.tokens), self._request.whole)

    def _frame(self, *, count: bool = False) -> Embed:
        request = self._request
        return Embed(
            self._ticket, request.inputs, request.cut_to, request.query, request.uncut, count
        )

    def _check(self, answer: Embedded, ready: Ready) -> None:
        if answer.at is None:
            return
        param = "query" if answer.of_query else self._request.place(answer.at)
        if answer.needs:
            raise input_exceeded(ready.context, answer.needs, param, exact=answer.exact)
        raise invalid(f"Invalid value for '{param}': {answer.error}.", param=param)

    def _account(self, tokens: int) -> None:
        model = self._runtime.plan.ref
        self._telemetry.observe("e2e_request_seconds", self._patience.waited_s, model=model)
        self._telemetry.count("prompt_tokens_total", tokens, model=model)

    def close(self) -> None:
        """Give up what is not over; the slot follows when the worker has let go. Idempotent."""
        if not self._over:
            self._over = True
            self._runtime.leave(self._ticket, submitted=self._submitted)
        self._end()

    def _end(self) -> None:
        usage = None if self._tokens is None else Usage(self._tokens, 0)
        self._budget.end(usage, ran=self._submitted, failed=self._failed)


class EmbeddingService:
    """Runs embedding calls that `Serving.gate` admitted.

    Args:
        limits: waiting bounds.
        clock: time.
        telemetry: metrics.
    """

    def __init__(self, limits: RunLimits, clock: Clock, telemetry: Telemetry) -> None:
        self._limits = limits
        self._ports = (clock, telemetry)

    def run(self, ticket: Ticket, request: EmbeddingRequest) -> EmbeddingRun:
        """The call itself; nothing happens before `EmbeddingRun.made`. Close it in any case."""
        return EmbeddingRun(ticket, request, self._limits, self._ports)


def _work(request: EmbeddingRequest) -> Work:
    """What a call asks of the model; texts are not counted before the worker has them."""
    letters = sum(len(one) for one in request.inputs if isinstance(one, str))
    tokens = sum(len(one) for one in request.inputs if not isinstance(one, str))
    return Work(tokens + letters // _LETTERS, most=0, pausable=False)


def _all_shortened(vectors: Sequence[bytes], width: int) -> tuple[bytes, ...]:
    return tuple(shortened(vector, width) for vector in vectors)


def check_width(wanted: int | None, ready: Ready) -> None:
    """Raise INVALID_REQUEST (param `dimensions`) for a width the model was not made for."""
    if wanted is None or wanted == ready.dimensions or wanted in ready.shorter:
        return
    fewer = "or some fewer" if ready.shorter else "and was not made to have them cut"
    message = f"This model makes vectors of {ready.dimensions} dimensions, {fewer}."
    raise invalid(message, param="dimensions")
