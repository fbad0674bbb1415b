"""The llama.cpp engine behind the worker's `Engine` protocol.

llama.cpp batches on its own threads; `step` collects what its streams brought meanwhile and
returns it as one step.
"""

import queue
from collections.abc import Sequence
from functools import partial

import msgspec

from opta_lmx.backends.compiling import Compilation, Compiler
from opta_lmx.backends.frames import (
    Announce,
    CacheChanged,
    Cancel,
    Drafted,
    Fault,
    Load,
    Ready,
    Released,
    Step,
    Submit,
    TokenOut,
    Tune,
)
from opta_lmx.backends.gguf.completion import (
    BeginningReader,
    CompletionReader,
    EngineAnswerError,
    Progress,
)
from opta_lmx.backends.gguf.following import GrammarFollower
from opta_lmx.backends.gguf.gathering import GatheringLimits
from opta_lmx.backends.gguf.keeper import Keeper, KeeperLimits
from opta_lmx.backends.gguf.model import OpenModel, open_model
from opta_lmx.backends.gguf.resuming import resume_refusal
from opta_lmx.backends.gguf.rows import Harvest, Row, Rows
from opta_lmx.backends.gguf.sampling import beginning_body, completion_body
from opta_lmx.backends.gguf.slot import submitted
from opta_lmx.backends.gguf.slots import SlotTable
from opta_lmx.backends.gguf.streams import Happening, Job, Streams
from opta_lmx.backends.protocol import Emit, Engine, Texts
from opta_lmx.backends.refusal import Limits, refusal
from opta_lmx.codec.constraints import may_end_with, resolve
from opta_lmx.core.clock import Clock, SystemClock

_WAIT_S = 0.005
_GATHER_S = 0.001
"""Tokens of one batch reach us this close together, on a connection each."""
_STATE_BYTES_S = 1 << 30
"""At least so fast are states of slots written and read."""
_MOST_STATE_S = 0.5
"""No stream is to stand still for longer while what some requests share is put aside or loaded."""


class GgufEngine:
    """One model on llama.cpp; see `backends.protocol.Engine`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._arrivals: queue.SimpleQueue[list[Happening]] = queue.SimpleQueue()
        self._compiler = Compiler(GrammarFollower)
        self._compiling: dict[int, Submit] = {}
        self._followers: dict[int, GrammarFollower] = {}
        self._again: list[Job] = []
        self._steps = 0
        self._since = 0.0

    def load(self, spec: Load, emit: Emit) -> tuple[Ready, Texts]:
        """Load the model and start its server. Raises LoadError."""
        self._emit = emit
        self._model: OpenModel = open_model(spec)
        plan, ready = self._model.plan, self._model.ready
        names = self._model.adapters.names
        self._limits = Limits(self._model.vocabulary, ready.context, plan.slots, names)
        options = self._model.options
        aside = options.slot_bytes // max(1, plan.cell_bytes) if options.cache_prompt else 0
        quick = int(_MOST_STATE_S * _STATE_BYTES_S) // max(1, plan.cell_bytes)
        self._slots = SlotTable(
            plan.slots,
            plan.cells if plan.shared else None,
            aside,
            GatheringLimits(min(aside, quick), plan.batch),
        )
        self._rows = Rows(emit)
        limits = KeeperLimits(plan.slots, options.slot_bytes, options.slot_quiet_s)
        prime = partial(self._model.adapters.prime, self._model.socket)
        self._keeper = Keeper(self._model.files, limits, self._clock, prime)
        for number, held in self._keeper.restore():
            self._slots.restore(number, held)
        self._streams = Streams(self._model.socket, self._arrivals.put)
        return ready, self._model.texts

    @property
    def busy(self) -> bool:
        """True while any request runs, waits, compiles its grammar, or has not been released."""
        return len(self._slots) > 0 or bool(self._compiling)

    def submit(self, request: Submit) -> None:
        """Take a request, or refuse it.

        It starts at once unless it has a grammar to compile or shared cache room is short.
        """
        cut = self._unshown(request.generated)
        if reason := refusal(request, self._limits) or resume_refusal(request, unshown=cut):
            self._refuse(request, reason)
        elif request.grammar:
            self._compiling[request.id] = request
            self._compiler.ask(request.id, request.grammar)
        else:
            self._enter(request)

    def cancel(self, request: Cancel) -> None:
        """Stop a request; `Released` follows when llama.cpp calls its slot idle.

        What a held one leaves in its slot is put aside when another needs the slot. One with a
        token that llama.cpp did not name, or could not show, cannot go on later: it is not held.
        """
        if compiling := self._compiling.pop(request.id, None):
            self._compiler.forget(request.id)
            self._release(compiling)
        elif waiting := self._slots.withdraw(request.id):
            self._followers.pop(request.id, None)
            self._release(waiting)
        elif row := self._rows.find(request.id):
            if request.hold and (not row.resumable or self._unshown(row.answer)):
                return  # it could not go on, so it runs to its end
            row.cancel(request.keep, paused=request.hold)
            self._streams.cancel(request.id)

    def tune(self, settings: Tune) -> None:
        """Nothing to change: llama.cpp's batch, and so its longest pause, is set at load."""

    def step(self) -> Step | None:
        """Wait up to 5 ms for news and return all there is."""
        if self._compiling:
            for done in self._compiler.take(0.0 if len(self._rows) else _WAIT_S):
                self._take_grammar(done)
        harvest = Harvest()
        arrivals = self._collect()
        if not arrivals:
            return None
        for item in arrivals:
            self._take(item, harvest)
        self._start_waiting()
        now = self._clock.monotonic()
        took_ms, self._since = (now - self._since) * 1000, now
        self._steps += 1
        return harvest.step(self._steps, took_ms, self._rows, self._model.plan.cell_bytes)

    def _take_grammar(self, done: Compilation[GrammarFollower]) -> None:
        """Let a request go on whose grammar is compiled; it may be gone by now."""
        request = self._compiling.pop(done.request, None)
        if request is not None and done.made.error:
            self._refuse(request, done.made.error)
        elif request is not None:
            self._followers[request.id] = done.made
            self._enter(request)
        # A sign of life; and llama.cpp is silent as long again, for it compiles by itself.
        self._emit(Announce("grammar", done.took_s))

    def _unshown(self, answer: Sequence[int]) -> bool:
        """Whether an answer ends in a character whose other bytes llama.cpp would not show."""
        return bool(self._model.plan.draft) and self._model.words.inside_character(answer)

    def _refuse(self, request: Submit, reason: str) -> None:
        self._emit(Fault(reason, "bad_request", request.id))
        self._release(request)

    def _release(self, request: Submit) -> None:
        """Tell that a request is over; nothing is ever held under the front's handles."""
        handles = {*(keep.handle for keep in request.keep), request.keep_end} - {0}
        if handles:
            self._emit(CacheChanged(lost=tuple(sorted(handles))))
        self._emit(Released(request.id))

    def _enter(self, request: Submit) -> None:
        if not len(self._slots):
            self._since = self._clock.monotonic()
        self._slots.add(request)
        self._start_waiting()

    def _collect(self) -> list[Happening]:
        """News so far; once there is some, waits a moment for the rest of its batch."""
        try:
            items = list(self._arrivals.get(timeout=_WAIT_S))
        except queue.Empty:
            return []
        expected = self._rows.decoding
        until = self._clock.monotonic() + _GATHER_S
        while True:
            missing = sum(isinstance(item, TokenOut) for item in items) < expected
            left = until - self._clock.monotonic() if missing else 0.0
            try:
                items += self._arrivals.get(timeout=max(0.0, left))
            except queue.Empty:
                return items

    def _take(self, item: Happening, harvest: Harvest) -> None:
        row = self._rows.find(item.request)
        assert row is not None
        if isinstance(item, TokenOut | Drafted) and row.interrupted:
            return
        if isinstance(item, TokenOut):
            self._slots.progressed(item.request, 0)
            harvest.token(row, item)
        elif isinstance(item, Drafted):
            harvest.drafted(row, item)
        elif isinstance(item, Progress):
            self._slots.progressed(item.request, item.total - item.done)
            harvest.progress(row, item)
            self._rows.measure(item)
        elif row.interrupted and not row.cancelled and item.error is None:
            self._gather(row)
        else:
            self._end(item.request, item.error)

    def _gather(self, row: Row) -> None:
        """Let an interrupted request go on, or process first what others share with it."""
        request, held = row.request, row.held()
        now = self._slots.gather(request.id, held)
        if now.upto:
            lora = self._model.adapters.chosen(request.adapter)
            reuse = row.reuse or bool(held)
            body = beginning_body(request, now.slot, now.upto, cache_prompt=reuse, lora=lora)
            reader = BeginningReader(request.id, now.upto, len(submitted(request)))
            self._streams.start(Job(request.id, now.slot, msgspec.json.encode(body), reader))
            return
        if now.aside is not None:
            self._emit(Announce("state", self._state_s(len(held))))
        self._slots.lose(self._keeper.put_aside(now))
        row.resume()
        if request.grammar:
            self._followers[request.id] = GrammarFollower(request.grammar)
        self._again.append(self._job(row))

    def _end(self, request: int, error: EngineAnswerError | None) -> None:
        row = self._rows.end(request)
        number = self._slots.release(request, row.held(), paused=row.paused)
        self._keeper.ended(number, self._slots.held(number))
        if error is not None and not row.cancelled:
            code = "bad_request" if error.bad_request else "step_failed"
            self._emit(Fault(str(error), code, request))
        self._release(row.request)

    def _start_waiting(self) -> None:
        """Start who may; what is to be copied is copied before anything of theirs runs.

        Beside answers one slot is filled at a time: they stand still meanwhile, and their next
        tokens bring us back here.
        """
        jobs, self._again = self._again, []
        while (start := self._slots.start()) is not None:
            fills = start.before.fills or start.before.park is not None
            row = self._rows.add(
                start, self._state_s(len(submitted(start.request))) if fills else 0.0
            )
            self._keeper.started(start.slot)
            done = self._keeper.prepare(start)
            self._slots.prepared(start, done)
            row.reuse = done.filled or not start.fresh
            jobs.append(self._job(row))
            if start.before.fills and self._rows.decoding:
                break
        for job in jobs:
            self._streams.start(job)
        for leader in self._slots.launched():
            if row := self._rows.find(leader):
                row.interrupt()
                self._streams.cancel(leader)

    def _state_s(self, tokens: int) -> float:
        """How long it takes to write or read so much of a slot; nothing is heard of us then."""
        return tokens * self._model.plan.cell_bytes / _STATE_BYTES_S

    def _job(self, row: Row) -> Job:
        model, request, slot = self._model, row.request, row.start.slot
        grammar = resolve(request.grammar or "", model.words.controls.get)
        body = completion_body(
            request,
            slot,
            cache_prompt=row.reuse and model.options.cache_prompt,
            markers=model.words.markers,
            grammar=may_end_with(grammar, model.ends),
            banned=model.words.misread if request.grammar else (),
            exact_bytes=model.words.inside_character(request.generated),
            drafts=bool(model.plan.draft),
            lora=model.adapters.chosen(request.adapter),
        )
        follower = self._followers.pop(request.id, None)
        reader = CompletionReader(request, model.ready.context, model.words, follower)
        return Job(request.id, slot, msgspec.json.encode(body), reader)


def create() -> Engine:
    """Make the engine."""
    return GgufEngine()
