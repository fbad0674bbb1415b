"""Requests running together, one step at a time; what they leave behind for later ones."""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

import traceback
from collections.abc import Sequence
from typing import Any

from opta_lmx.backends.frames import (
    Announce,
    Cache,
    Cancel,
    Fault,
    Log,
    Released,
    Started,
    Step,
    Submit,
    TokenOut,
)
from opta_lmx.backends.mlx.caches import cut
from opta_lmx.backends.mlx.delivery import Delivery
from opta_lmx.backends.mlx.drawing import Drawing
from opta_lmx.backends.mlx.files import Files
from opta_lmx.backends.mlx.grammar import Compiled, GrammarError, Grammars
from opta_lmx.backends.mlx.intake import Intake
from opta_lmx.backends.mlx.lane import Entry, Lane
from opta_lmx.backends.mlx.pacing import Pace, chunk
from opta_lmx.backends.mlx.rows import Row
from opta_lmx.backends.mlx.running import Running
from opta_lmx.backends.mlx.states import States
from opta_lmx.backends.protocol import Emit
from opta_lmx.backends.refusal import Limits, refusal
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.core.clock import SystemClock

_ANNOUNCE_S = 0.2
"""Steps predicted to last longer are announced to the watchdog."""
_WAIT_S = 0.005
"""How long a step waits for a grammar or a file when nothing runs."""
_KV_EVERY = 64
"""Steps between counts of the caches' bytes while the rows stay the same."""


class Batch:
    """All requests of one model. Every method is for the engine thread alone.

    Args:
        running: of an evaluated model; empty.
        tokenizer: gives tokens their bytes and names the ids that end an answer.
        limits: what requests may ask.
        pace: sizes prompt chunks.
        emit: where everything but steps goes.
    """

    def __init__(
        self, running: Running, tokenizer: HfTokenizer, limits: Limits, pace: Pace, emit: Emit
    ) -> None:
        self.pace = pace
        self.limits = limits
        self._emit = emit
        self._clock = SystemClock()
        self._states = States(emit)
        self._files = Files(self._states, running.form, emit)
        self._intake = Intake(Grammars(tokenizer, limits.vocabulary), self._states)
        self._drawing = Drawing(limits.vocabulary, tokenizer.eos_ids)
        self._running = running
        self._delivery = Delivery(tokenizer)
        self._steps = 0
        self._kv_bytes = 0
        self._kv_stale = True

    @property
    def busy(self) -> bool:
        """True while any request is unfinished, or a file on its way."""
        return bool(len(self._intake) or len(self._running)) or self._files.busy

    def submit(self, request: Submit) -> None:
        """Take a request, or refuse it with a `Fault` and release its slot."""
        reason = refusal(request, self.limits)
        if not reason and (self._running.find(request.id) or request.id in self._intake):
            reason = f"request {request.id} is already running"
        if not reason and any(self._states.known(handle) for handle in handles_of(request)):
            reason = "a handle to keep something under is in use"
        if reason:
            self._refuse(request.id, reason)
        else:
            self._intake.add(request)

    def cancel(self, request: Cancel) -> None:
        """End a request at any stage and release its slot; unknown ids are ignored."""
        row = self._running.find(request.id)
        if row is None:
            row = self._intake.withdraw(request.id)
            if row is None:
                return
        elif not self._take_out(row, request):
            row.leaving = True
            return
        self._release(row)

    def cache(self, command: Cache) -> None:
        """Let go of held states, write some to files, read some back."""
        for move in command.spill:
            self._files.spill(move)
        self._states.drop(command.drop)
        for move in command.load:
            self._files.load(move)
        self._states.flush()

    def step(self) -> Step | None:
        """One decode step of every running row, and one chunk of prompt; None when idle."""
        self._look_around()
        decoding = any(row.left == 0 for row in self._running.rows)
        started, planned, size = self._plan(decoding)
        if not len(self._running):
            self._states.flush()
            return None
        began = self._clock.monotonic()
        self._steps += 1
        self._keep_leaving()
        progress, drawn, failures = self._running.next(size)
        prefill = tuple(self._advance(row, response) for row, response in progress)
        tokens = self._tokens(drawn)
        for lane, error in failures:
            self._recover(lane, error)
        self._end_early()
        self._states.flush()
        ms = (self._clock.monotonic() - began) * 1000
        if not failures:
            self.pace.saw(ms, bool(drawn), planned)
        return Step(self._steps, ms, tokens, started, prefill, len(drawn), self._count_kv())

    # --- requests

    def _refuse(self, request: int, reason: str) -> None:
        self._emit(Fault(reason, "bad_request", request))
        self._emit(Released(request))

    def _release(self, row: Row) -> None:
        """A request is over: what it has not kept by now it never will."""
        self._kv_stale = True
        self._states.give_up(row.handles)
        self._states.flush()
        self._emit(Released(row.id))

    def _fail(self, row: Row, code: str = "step_failed") -> None:
        self._emit(Fault(row.failed, code, row.id))
        self._release(row)

    def _look_around(self) -> None:
        """See what came of grammars and files."""
        wait_s = 0.0 if len(self._running) or self._intake.can_start else _WAIT_S
        self._files.advance(wait_s)
        if self._intake.compiling:
            for made in self._intake.compiled(wait_s):
                self._note_grammar(made)

    def _note_grammar(self, made: Compiled) -> None:
        # A sign of life, for many may compile one after another.
        self._emit(Announce("grammar", made.took_s))
        row = self._intake.withdraw(made.request) if made.error else None
        if row is not None:
            row.failed = f"the grammar cannot be used: {made.error}"
            self._fail(row, "bad_request")

    # --- prompts

    def _plan(self, decoding: bool) -> tuple[tuple[Started, ...], int, int]:
        """Choose prompts of the coming step; return who starts, its padded tokens, its chunk."""
        budget = self.pace.budget(decoding)
        started: tuple[Started, ...] = ()
        if self._intake.can_start:
            started = self._start(self._intake.choose(self._running.rows, budget))
        running = [row for row in self._running.rows if row.left]
        if not running:
            return started, 0, 1
        size = chunk(len(running), budget)
        planned = self._running.planned(size)
        predicted_s = self.pace.predicted_s(planned, decoding)
        if predicted_s > _ANNOUNCE_S:
            self._emit(Announce("prefill", predicted_s))
        return started, planned, size

    def _start(self, chosen: Sequence[Row]) -> tuple[Started, ...]:
        """Move waiting requests into the generator; return those not known to have started."""
        entries = [entry for row in chosen if (entry := self._entry(row)) is not None]
        if entries:
            self._running.enter(entries)
        self._kv_stale = True
        fresh = [entry.row for entry in entries if not entry.row.announced]
        for row in fresh:
            row.announced = True
        return tuple(Started(row.id, row.done) for row in fresh)

    def _entry(self, row: Row) -> Entry | None:
        """Find what a row may start from and make what draws its tokens; None: it has failed."""
        ids = row.ids
        found = (self._states.fork(source, ids) for source in reversed(row.sources))
        caches, cached = next((each for each in found if each is not None), (None, 0))
        self._intake.settle(row)
        self._states.give_up(keep.handle for keep in row.start(cached, len(ids)))
        room = min(row.request.max_tokens - len(row.answer), self.limits.context - len(ids))
        entry = Entry(row, ids, caches, room)
        try:
            self._drawing.prepare(entry)
        except GrammarError as error:
            row.failed = f"the generated tokens do not fit the grammar: {error}"
            self._fail(row, "bad_request")
            return None
        return entry

    def _advance(self, row: Row, response: Any) -> tuple[int, int, int]:
        """Note a prompt's progress and make the checkpoint it has reached."""
        done, total = response.progress
        row.done = row.total - total + done
        self._kv_stale = True
        for keep in row.due():
            caches, _ = self._running.caches_of(row)
            self._keep(keep.handle, row.ids[: keep.tokens], caches)
            row.kept(keep)
        return row.id, row.done, row.total

    # --- tokens

    def _tokens(self, drawn: Sequence[tuple[Row, Any]]) -> tuple[TokenOut, ...]:
        tokens = self._delivery.tokens(drawn)
        for row, response in drawn:
            if response.finish_reason is not None:
                self._running.forget(row)
                self._keep(row.request.keep_end, row.ids, response.prompt_cache)
                self._release(row)
        return tuple(tokens)

    def _end_early(self) -> None:
        """Take out rows that failed on their own, and those that were to be held."""
        for row in self._running.rows:
            if row.failure or row.leaving:
                self._running.remove(row)
                if row.failure:
                    row.failed = row.failure
                    self._fail(row)
                else:
                    self._release(row)

    # --- states

    def _keep(self, handle: int, ids: Sequence[int], caches: Any) -> None:
        """Hold a state that is expected."""
        if self._states.expects(handle):
            with self._running.on_stream():
                self._states.keep(handle, ids, caches)

    def _take_out(self, row: Row, request: Cancel) -> bool:
        """Take a row out and keep its state as asked; False: it has to make one more token."""
        wanted = row.request.keep_end and (request.hold or row.left == 0)
        if not wanted:
            self._running.remove(row)
            return True
        caches, tokens = self._running.caches_of(row)
        if request.hold:
            # A row goes on from the token after those held: there must be one.
            most = len(row.ids) - 1
        else:
            answered = len(row.answer) if request.keep is None else request.keep
            most = len(row.request.ids) + answered
        with self._running.on_stream():
            fits = cut(caches, tokens - most)
        if request.hold and tokens and not fits:
            return False
        self._running.remove(row)
        if fits and min(tokens, most):
            self._keep(row.request.keep_end, row.ids[: min(tokens, most)], caches)
        return True

    def _keep_leaving(self) -> None:
        """Hold rows whose last token cannot be taken off, before their next one is added."""
        for row in self._running.rows:
            if row.leaving:
                caches, _ = self._running.caches_of(row)
                self._keep(row.request.keep_end, row.ids, caches)

    # --- failures

    def _recover(self, lane: Lane, error: Exception) -> None:
        """A lane failed: its rows start again from their tokens, but for the one to blame.

        Without a culprit all start again together; if that fails too, only one of them at a time
        joins the rest, and when a step fails with it, it was that one.
        """
        traceback.print_exception(error)
        rows = self._running.rebuild(lane)
        self._kv_stale = True
        reason = str(error) or type(error).__name__
        suspects = [row for row in rows if row.on_trial]
        if len(suspects) == 1 and not any(row.failure for row in rows):
            suspects[0].failed = reason
        known = any(row.failure for row in rows)
        fields = {"reason": reason, "rows": len(rows), "known": known}
        self._emit(Log("error", "step_failed", fields))
        again: list[Row] = []
        for row in rows:
            if row.failure:
                row.failed = row.failure
                self._fail(row)
            elif row.leaving:
                self._release(row)
            else:
                row.doubts += not known
                again.append(row)
        self._intake.bring_back(again)

    def _count_kv(self) -> int:
        if self._kv_stale or self._steps % _KV_EVERY == 0:
            self._kv_bytes = self._running.nbytes
            self._kv_stale = False
        return self._kv_bytes


def handles_of(request: Submit) -> list[int]:
    """Handles that a request is to keep something under."""
    ends = [request.keep_end] if request.keep_end else []
    return [keep.handle for keep in request.keep] + ends
