"""Requests running together: mlx-lm's BatchGenerator, driven one step at a time.

The generator is wrapped, never patched; its own queue stays empty, since a request is handed to
it only when its prompt is to be processed in the coming step. Two of its public attributes are
set between steps: `prefill_step_size`, the chunk each prompt in progress gets, and nothing else.
"""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.generate import BatchGenerator  # pyright: ignore[reportMissingTypeStubs]

from opta_lmx.backends.frames import (
    Announce,
    Fault,
    Released,
    Started,
    Step,
    Submit,
    TokenOut,
)
from opta_lmx.backends.mlx.logprobs import Answer, Asked, LogprobReader
from opta_lmx.backends.mlx.pacing import MAX_CHUNK, Pace, admit, chunk
from opta_lmx.backends.mlx.sampling import Samplers
from opta_lmx.backends.protocol import Emit
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.core.clock import SystemClock

_ANNOUNCE_S = 0.2
"""Steps predicted to last longer are announced to the watchdog."""
_KV_EVERY = 64
"""Steps between counts of the caches' bytes while the rows stay the same."""


class Limits(msgspec.Struct, frozen=True):
    """What requests may ask: token ids below `vocabulary`, `context` tokens, `slots` at once."""

    vocabulary: int
    context: int
    slots: int


class _Row:
    """One request in the generator. `left` counts prompt tokens still to be prefilled."""

    __slots__ = ("emitted", "left", "request", "uid")

    def __init__(self, request: Submit, uid: int) -> None:
        self.request = request
        self.uid = uid
        self.left = len(request.ids) - 1
        self.emitted = False


class Batch:
    """All requests of one model. Every method is for the engine thread alone.

    Args:
        model: an evaluated mlx-lm model.
        tokenizer: gives tokens their bytes and names the ids that end an answer.
        limits: what requests may ask.
        pace: sizes prompt chunks.
        emit: where `Released`, `Fault` and `Announce` go.
    """

    def __init__(
        self, model: Any, tokenizer: HfTokenizer, limits: Limits, pace: Pace, emit: Emit
    ) -> None:
        self.emit = emit
        self.pace = pace
        self.limits = limits
        self._tokenizer = tokenizer
        self._samplers = Samplers()
        self._logprobs = LogprobReader(tokenizer.piece)
        self._clock = SystemClock()
        self._generator: Any = BatchGenerator(
            model,
            stop_tokens=[[i] for i in sorted(tokenizer.eos_ids)],
            completion_batch_size=limits.slots,
            prefill_batch_size=limits.slots,
            prefill_step_size=MAX_CHUNK,
        )
        self._waiting: list[Submit] = []
        self._rows: dict[int, _Row] = {}
        self._uids: dict[int, int] = {}
        self._steps = 0
        self._kv_bytes = 0
        self._kv_stale = True

    @property
    def busy(self) -> bool:
        """True while any request is unfinished."""
        return bool(self._waiting or self._rows)

    def submit(self, request: Submit) -> None:
        """Take a request, or refuse it with a `Fault` and release its slot."""
        if reason := self._refusal(request):
            self.emit(Fault(reason, "bad_request", request.id))
            self.emit(Released(request.id))
        else:
            self._waiting.append(request)

    def cancel(self, request: int) -> None:
        """End a request at any stage and release its slot; unknown ids are ignored."""
        uid = self._uids.pop(request, None)
        if uid is not None:
            del self._rows[uid]
            with mx.stream(self._generator.stream):
                self._generator.remove([uid])
            self._kv_stale = True
        else:
            waiting = [other for other in self._waiting if other.id != request]
            if len(waiting) == len(self._waiting):
                return
            self._waiting = waiting
        self.emit(Released(request))

    def step(self) -> Step | None:
        """One decode step of every running row, and one chunk of prompt; None when idle."""
        if not self.busy:
            return None
        decoding = any(row.left == 0 for row in self._rows.values())
        started, planned = self._plan(decoding)
        began = self._clock.monotonic()
        progress, responses = self._generator.next()
        ms = (self._clock.monotonic() - began) * 1000
        self.pace.saw(ms, bool(responses), planned)
        self._steps += 1
        prefill = tuple(self._advance(response) for response in progress)
        tokens = self._tokens(responses)
        rows = len(responses)
        return Step(self._steps, ms, tokens, started, prefill, rows, self._count_kv())

    # --- prompts

    def _plan(self, decoding: bool) -> tuple[tuple[Started, ...], int]:
        """Choose prompts and chunk of the coming step; return who starts and its padded tokens."""
        budget = self.pace.budget(decoding)
        started: tuple[Started, ...] = ()
        if self._waiting:
            running = [row.left for row in self._rows.values() if row.left]
            lengths = [len(request.ids) - 1 for request in self._waiting]
            started = self._start(admit(lengths, running, budget))
        running = [row.left for row in self._rows.values() if row.left]
        if not running:
            return started, 0
        size = chunk(len(running), budget)
        planned = len(running) * min(size, max(running))
        self._generator.prefill_step_size = size
        predicted_s = self.pace.predicted_s(planned, decoding)
        if predicted_s > _ANNOUNCE_S:
            self.emit(Announce("prefill", predicted_s))
        return started, planned

    def _start(self, chosen: Sequence[int]) -> tuple[Started, ...]:
        """Move waiting requests into the generator."""
        if not chosen:
            return ()
        starting = [self._waiting[index] for index in chosen]
        for index in reversed(chosen):
            del self._waiting[index]
        uids = self._generator.insert(
            [list(request.ids) for request in starting],
            max_tokens=[self._room(request) for request in starting],
            samplers=[self._samplers.get(request.sampling) for request in starting],
        )
        for request, uid in zip(starting, uids, strict=True):
            self._rows[uid] = _Row(request, uid)
            self._uids[request.id] = uid
        self._kv_stale = True
        return tuple(Started(request.id, 0) for request in starting)

    def _advance(self, response: Any) -> tuple[int, int, int]:
        """Note a prompt's progress; return (request, done, total)."""
        row = self._rows[response.uid]
        done, total = response.progress
        row.left = max(0, total - 1 - done)
        self._kv_stale = True
        return row.request.id, done, total

    def _room(self, request: Submit) -> int:
        """Tokens the request may generate: what it asks, within the context."""
        return min(request.max_tokens, self.limits.context - len(request.ids))

    # --- tokens

    def _tokens(self, responses: Sequence[Any]) -> tuple[TokenOut, ...]:
        answers = self._read_logprobs(responses)
        out: list[TokenOut] = []
        tokenizer = self._tokenizer
        for response in responses:
            row = self._rows[response.uid]
            token, finish = response.token, response.finish_reason
            if finish == "stop":
                piece = b""
            elif row.emitted:
                piece = tokenizer.piece(token)
            else:
                row.emitted = True
                piece = tokenizer.first_piece(token)
            request = row.request.id
            if answers and response.uid in answers:
                logprob, top = answers[response.uid]
                out.append(TokenOut(request, token, piece, finish, logprob, top))
            else:
                out.append(TokenOut(request, token, piece, finish))
            if finish is not None:
                self._end(row)
        return tuple(out)

    def _read_logprobs(self, responses: Sequence[Any]) -> dict[int, Answer]:
        """Answers by uid, for the rows that asked for log-probabilities."""
        asked: dict[int, Asked] = {}
        for response in responses:
            top = self._rows[response.uid].request.top_logprobs
            if top is not None:
                asked[response.uid] = Asked(response.logprobs, response.token, top)
        if not asked:
            return {}
        return dict(zip(asked, self._logprobs.read(list(asked.values())), strict=True))

    def _end(self, row: _Row) -> None:
        """The generator has dropped this row; its slot is free."""
        del self._rows[row.uid]
        del self._uids[row.request.id]
        self._kv_stale = True
        self.emit(Released(row.request.id))

    def _count_kv(self) -> int:
        if self._kv_stale or self._steps % _KV_EVERY == 0:
            self._kv_bytes = int(self._generator.prompt_cache_nbytes)
            self._kv_stale = False
        return self._kv_bytes

    def _refusal(self, request: Submit) -> str:
        """Why a request cannot run; empty when it can."""
        limits, ids, sampling = self.limits, request.ids, request.sampling
        if not ids:
            return "the prompt is empty"
        if len(ids) >= limits.context:
            return f"the prompt of {len(ids)} tokens leaves no room in {limits.context}"
        if min(ids) < 0 or max(ids) >= limits.vocabulary:
            return f"a token id is outside the vocabulary of {limits.vocabulary}"
        if request.max_tokens < 1:
            return "max_tokens must be at least 1"
        numbers = (sampling.temperature, sampling.top_p, sampling.min_p)
        if not all(number is None or (math.isfinite(number) and number >= 0) for number in numbers):
            return "a sampling parameter is not a finite number of at least 0"
        if request.id in self._uids or any(other.id == request.id for other in self._waiting):
            return f"request {request.id} is already running"
        return ""
