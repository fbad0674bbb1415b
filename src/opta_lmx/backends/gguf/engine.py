"""The llama.cpp engine behind the worker's `Engine` protocol.

llama.cpp batches on its own threads; `step` collects what its streams brought meanwhile and
returns it as one step.
"""

import queue

import msgspec

from opta_lmx.backends.compiling import Compilation, Compiler
from opta_lmx.backends.frames import (
    Announce,
    Cancel,
    Fault,
    Load,
    Ready,
    Released,
    Started,
    Step,
    Submit,
    TokenOut,
    Tune,
)
from opta_lmx.backends.gguf.completion import CompletionReader, EngineAnswerError, Progress
from opta_lmx.backends.gguf.following import GrammarFollower
from opta_lmx.backends.gguf.model import OpenModel, open_model
from opta_lmx.backends.gguf.sampling import completion_body
from opta_lmx.backends.gguf.slots import SlotTable
from opta_lmx.backends.gguf.streams import Happening, Job, Streams
from opta_lmx.backends.protocol import Emit, Engine, Texts
from opta_lmx.backends.refusal import bias_refusal
from opta_lmx.codec.constraints import may_end_with, resolve
from opta_lmx.core.clock import Clock, SystemClock

_WAIT_S = 0.005
_GATHER_S = 0.001
"""Tokens of one batch reach us this close together, on a connection each."""
_FIRST_GUESS_MS = 5.0
"""Per prompt token, before anything was measured."""


class _Row:
    """A running request."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self.answer: list[int] = []
        self.started = False
        self.decoding = False
        self.cancelled = False


class _Harvest:
    """What one step will report."""

    def __init__(self) -> None:
        self.tokens: list[TokenOut] = []
        self.started: list[Started] = []
        self.prefill: dict[int, tuple[int, int, int]] = {}


class GgufEngine:
    """One model on llama.cpp; see `backends.protocol.Engine`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._arrivals: queue.SimpleQueue[list[Happening]] = queue.SimpleQueue()
        self._rows: dict[int, _Row] = {}
        self._compiler = Compiler(GrammarFollower)
        self._compiling: dict[int, Submit] = {}
        self._followers: dict[int, GrammarFollower] = {}
        self._steps = 0
        self._since = 0.0
        self._prefill_ms = _FIRST_GUESS_MS

    def load(self, spec: Load, emit: Emit) -> tuple[Ready, Texts]:
        """Load the model and start its server. Raises LoadError."""
        self._emit = emit
        self._model: OpenModel = open_model(spec)
        self._slots = SlotTable(self._model.plan.slots, self._model.plan.cells)
        self._streams = Streams(self._model.socket, self._arrivals.put)
        return self._model.ready, self._model.texts

    @property
    def busy(self) -> bool:
        """True while any request runs, waits, compiles its grammar, or has not been released."""
        return len(self._slots) > 0 or bool(self._compiling)

    def submit(self, request: Submit) -> None:
        """Take a request, or refuse it.

        It starts at once unless it has a grammar to compile or shared cache room is short.
        """
        if reason := bias_refusal(request, self._model.vocabulary):
            self._refuse(request, reason)
        elif request.grammar:
            self._compiling[request.id] = request
            self._compiler.ask(request.id, request.grammar)
        else:
            self._enter(request)

    def cancel(self, request: Cancel) -> None:
        """Stop a request; `Released` follows when llama.cpp calls its slot idle."""
        if self._compiling.pop(request.id, None) is not None:
            self._compiler.forget(request.id)
            self._emit(Released(request.id))
        elif self._slots.withdraw(request.id):
            self._followers.pop(request.id, None)
            self._emit(Released(request.id))
        elif row := self._rows.get(request.id):
            row.cancelled = True
            self._streams.cancel(request.id)

    def tune(self, settings: Tune) -> None:
        """Nothing to change: llama.cpp's batch, and so its longest pause, is set at load."""

    def step(self) -> Step | None:
        """Wait up to 5 ms for news and return all there is."""
        if self._compiling:
            for done in self._compiler.take(0.0 if self._rows else _WAIT_S):
                self._take_grammar(done)
        harvest = _Harvest()
        arrivals = self._collect()
        if not arrivals:
            return None
        for item in arrivals:
            self._take(item, harvest)
        self._start_waiting()
        now = self._clock.monotonic()
        took_ms, self._since = (now - self._since) * 1000, now
        self._steps += 1
        return Step(
            n=self._steps,
            ms=took_ms,
            tokens=tuple(harvest.tokens),
            started=tuple(harvest.started),
            prefill=tuple(harvest.prefill.values()),
            rows=sum(row.decoding for row in self._rows.values()),
            kv_bytes=self._kv_bytes(),
        )

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

    def _refuse(self, request: Submit, reason: str) -> None:
        self._emit(Fault(reason, "bad_request", request.id))
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
        expected = sum(row.decoding for row in self._rows.values())
        until = self._clock.monotonic() + _GATHER_S
        while True:
            missing = sum(isinstance(item, TokenOut) for item in items) < expected
            left = until - self._clock.monotonic() if missing else 0.0
            try:
                items += self._arrivals.get(timeout=max(0.0, left))
            except queue.Empty:
                return items

    def _take(self, item: Happening, harvest: _Harvest) -> None:
        row = self._rows[item.request]
        if isinstance(item, TokenOut):
            row.decoding = item.finish is None
            row.answer.append(item.id)
            if not row.cancelled:
                harvest.tokens.append(item)
        elif isinstance(item, Progress):
            self._progress(row, item, harvest)
        else:
            self._end(row, item.request, item.error)

    def _progress(self, row: _Row, item: Progress, harvest: _Harvest) -> None:
        if not row.started:
            row.started = True
            harvest.started.append(Started(item.request, item.cached))
        harvest.prefill[item.request] = (item.request, item.done, item.total)
        worked = item.done - item.cached
        if item.ms > 0 and worked > 0:
            self._prefill_ms += (item.ms / worked - self._prefill_ms) / 4

    def _end(self, row: _Row, request: int, error: EngineAnswerError | None) -> None:
        del self._rows[request]
        self._slots.release(request, row.answer)
        if error is not None and not row.cancelled:
            code = "bad_request" if error.bad_request else "step_failed"
            self._emit(Fault(str(error), code, request))
        self._emit(Released(request))

    def _start_waiting(self) -> None:
        while (taken := self._slots.start()) is not None:
            request, slot, cached = taken
            model = self._model
            grammar = resolve(request.grammar or "", model.words.controls.get)
            body = completion_body(
                request,
                slot,
                cache_prompt=model.options.cache_prompt,
                markers=model.words.markers,
                grammar=may_end_with(grammar, model.ends),
                banned=model.words.misread if request.grammar else (),
            )
            follower = self._followers.pop(request.id, None)
            reader = CompletionReader(request, model.ready.context, model.words, follower)
            self._rows[request.id] = _Row(len(request.ids))
            uncached = len(request.ids) - cached
            self._emit(Announce("prefill", uncached * self._prefill_ms / 1000))
            self._streams.start(Job(request.id, slot, msgspec.json.encode(body), reader))

    def _kv_bytes(self) -> int:
        cells = sum(row.prompt + len(row.answer) for row in self._rows.values())
        return cells * self._model.plan.cell_bytes


def create() -> Engine:
    """Make the engine."""
    return GgufEngine()
