"""Requests running together: mlx-lm's BatchGenerator, driven one step at a time.

The generator is wrapped, never patched; its own queue stays empty, since a request is handed to
it only when its prompt is to be processed in the coming step. Two of its public attributes are
set between steps: `prefill_step_size`, the chunk each prompt in progress gets, and nothing else.
"""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
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
from opta_lmx.backends.mlx.grammar import Compiled, Follower, Grammars
from opta_lmx.backends.mlx.logprobs import Answer, Asked, LogprobReader
from opta_lmx.backends.mlx.pacing import MAX_CHUNK, Pace, admit, chunk
from opta_lmx.backends.mlx.processing import Processor, is_needed
from opta_lmx.backends.mlx.sampling import Samplers
from opta_lmx.backends.protocol import Emit
from opta_lmx.backends.refusal import Limits, refusal
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.core.clock import SystemClock

_ANNOUNCE_S = 0.2
"""Steps predicted to last longer are announced to the watchdog."""
_GRAMMAR_WAIT_S = 0.005
_KV_EVERY = 64
"""Steps between counts of the caches' bytes while the rows stay the same."""


class _Row:
    """One request in the generator. `left` counts prompt tokens still to be prefilled."""

    __slots__ = ("emitted", "left", "processor", "request", "uid")

    def __init__(self, request: Submit, uid: int, processor: Processor | None) -> None:
        self.request = request
        self.processor = processor
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
        self._grammars = Grammars(tokenizer, limits.vocabulary)
        self._compiling: dict[int, Submit] = {}
        self._matchers: dict[int, Any] = {}
        self._waiting: list[Submit] = []
        self._rows: dict[int, _Row] = {}
        self._uids: dict[int, int] = {}
        self._steps = 0
        self._kv_bytes = 0
        self._kv_stale = True

    @property
    def busy(self) -> bool:
        """True while any request is unfinished."""
        return bool(self._waiting or self._rows or self._compiling)

    def submit(self, request: Submit) -> None:
        """Take a request, or refuse it with a `Fault` and release its slot."""
        reason = refusal(request, self.limits)
        if not reason and self._is_known(request.id):
            reason = f"request {request.id} is already running"
        if reason:
            self._refuse(request.id, reason)
        elif request.grammar:
            self._compiling[request.id] = request
            self._grammars.ask(request.id, request.grammar)
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
        elif self._compiling.pop(request, None) is not None:
            self._grammars.forget(request)
        else:
            waiting = [other for other in self._waiting if other.id != request]
            if len(waiting) == len(self._waiting):
                return
            self._waiting = waiting
            self._matchers.pop(request, None)
        self.emit(Released(request))

    def step(self) -> Step | None:
        """One decode step of every running row, and one chunk of prompt; None when idle."""
        if self._compiling:
            idle = not (self._waiting or self._rows)
            for made in self._grammars.take(_GRAMMAR_WAIT_S if idle else 0.0):
                self._take_grammar(made)
        if not (self._waiting or self._rows):
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

    # --- requests

    def _is_known(self, request: int) -> bool:
        return (
            request in self._uids
            or request in self._compiling
            or any(other.id == request for other in self._waiting)
        )

    def _refuse(self, request: int, reason: str) -> None:
        self.emit(Fault(reason, "bad_request", request))
        self.emit(Released(request))

    def _take_grammar(self, made: Compiled) -> None:
        """Let a request go on whose grammar is compiled; it may be gone by now."""
        # A sign of life, for many may compile one after another.
        self.emit(Announce("grammar", made.took_s))
        request = self._compiling.pop(made.request, None)
        if request is None:
            return
        if made.error:
            self._refuse(request.id, f"the grammar cannot be used: {made.error}")
            return
        self._matchers[request.id] = made.matcher
        self._waiting.append(request)

    def _processor(self, request: Submit) -> Processor | None:
        if not is_needed(request):
            return None
        size, matcher = self.limits.vocabulary, self._matchers.pop(request.id, None)
        ends = [token for token in self._tokenizer.eos_ids if token < size]
        follower = None if matcher is None else Follower(matcher, size, ends)
        return Processor(request, size, follower)

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
        processors = [self._processor(request) for request in starting]
        uids = self._generator.insert(
            [list(request.ids) for request in starting],
            max_tokens=[self._room(request) for request in starting],
            samplers=[self._samplers.get(request.sampling) for request in starting],
            logits_processors=[[each] if each else [] for each in processors],
        )
        for request, uid, processor in zip(starting, uids, processors, strict=True):
            self._rows[uid] = _Row(request, uid, processor)
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
            if finish is not None and row.processor and row.processor.failed:
                self.emit(Fault(row.processor.failed, "step_failed", row.request.id))
                self._end(row)
                continue
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
            row = self._rows[response.uid]
            top = row.request.top_logprobs
            if top is not None:
                own = response.logprobs if row.processor is None else row.processor.logprobs()
                asked[response.uid] = Asked(own, response.token, top)
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
