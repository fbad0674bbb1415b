"""The simulated engine: every byte of the prompt is a token, and answers are scripted.

Token `n` of an answer has the id `n`, counted from 1, so an answer that goes on after tokens
that were generated before can be told from one that goes on after others.
"""

import os
import re
from collections.abc import Callable

import msgspec

from opta_lmx.backends.frames import (
    Cache,
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
from opta_lmx.backends.protocol import Emit, Engine, LoadError, Texts
from opta_lmx.backends.sim.options import SimOptions
from opta_lmx.backends.sim.sharing import device
from opta_lmx.backends.sim.states import SimStates
from opta_lmx.backends.sim.texts import SimTexts
from opta_lmx.core.clock import block_for
from opta_lmx.core.kv_cost import KvCost
from opta_lmx.core.types import FinishReason, Speech, TopLogprob

_FOREVER_S = 3600.0


class _Row:
    """One running request: `done` tokens of its answer were made, here or before."""

    def __init__(self, request: Submit, pieces: list[bytes], *, waits: bool) -> None:
        self.request = request
        self.pieces = pieces
        self.done = len(request.generated)
        self.waits = waits
        self.begun = False
        self.started = False
        self.left = 0
        """Tokens to be processed before the next of its answer."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt, and the answer so far."""
        return (*self.request.ids, *range(1, self.done + 1))

    def __len__(self) -> int:
        return len(self.request.ids) + self.done

    @property
    def handles(self) -> list[int]:
        """States it may still provide."""
        keeps = [] if self.started else [keep.handle for keep in self.request.keep]
        return [*keeps, self.request.keep_end]


class SimEngine:
    """Batches like a real engine: one token per running row and step."""

    def __init__(self, block: Callable[[float], None] = block_for) -> None:
        self._block = block
        self._rows: dict[int, _Row] = {}
        self._steps = 0
        self._options = SimOptions()

    def load(self, spec: Load, emit: Emit) -> tuple[Ready, Texts]:
        """Take the script from the options. Raises LoadError."""
        options = self._options = msgspec.convert(spec.options, SimOptions)
        self._emit = emit
        self._states = SimStates(options.caches, options.kv_bytes, emit)
        self._block(options.load_ms / 1000)
        if options.fail_load:
            raise LoadError(options.fail_load)
        ready = Ready(
            context=spec.context or 4096,
            slots=spec.slots,
            weights_bytes=options.weights_bytes,
            speech=Speech(options.tool_dialect, options.reasoning),
            engine="sim",
            lacks=options.lacks,
            caches=options.caches,
            resumes=options.resumes,
            pauses=options.pauses,
            kv_bytes=options.kv_budget,
            kv=KvCost(((options.kv_bytes, 0),)),
        )
        return ready, SimTexts(options)

    def submit(self, request: Submit) -> None:
        """Begin a row, or go on with one."""
        if request.generated != tuple(range(1, len(request.generated) + 1)):
            self._emit(Fault("these tokens are not of this answer", "bad_request", request.id))
            self._emit(Released(request.id))
            return
        waits = self._states.expect(request)
        self._rows[request.id] = _Row(request, self._pieces(request), waits=waits)

    def _pieces(self, request: Submit) -> list[bytes]:
        options, reply = self._options, self._options.reply
        asked = msgspec.structs.replace(request, generated=())
        if options.echo_sampling:
            reply = msgspec.json.encode(request.sampling).decode()
        if options.echo_submit:
            reply = msgspec.json.encode(asked).decode()
        if options.by_bytes:
            return [bytes([byte]) for byte in reply.encode()]
        if options.exact or options.echo_submit:
            return [word.encode() for word in re.findall(r"\S+\s*|\s+", reply)]
        return [f"{word} ".encode() for word in reply.split()]

    def cancel(self, request: Cancel) -> None:
        """End a row at once; what is to be held of it are its processed tokens."""
        row = self._rows.pop(request.id, None)
        if row is None:
            return
        if not row.begun:
            self._states.unwant(row.request.reuse)
        elif request.hold:
            self._states.keep(row.request.keep_end, row.ids[: len(row) - max(1, row.left)])
        elif self._options.caches == "trimmable" and not row.left:
            wanted = row.done if request.keep is None else request.keep
            self._states.keep(row.request.keep_end, row.ids[: len(row.request.ids) + wanted][:-1])
        self._states.give_up(row.handles)
        self._emit(Released(request.id))

    def cache(self, command: Cache) -> None:
        """Let go of held states, write some, read some back."""
        self._states.cache(command)

    def tune(self, settings: Tune) -> None:
        """The simulation never stalls; nothing to change."""

    @property
    def busy(self) -> bool:
        """True while rows run."""
        return bool(self._rows)

    def step(self) -> Step | None:
        """Play one step: prefill of new rows, then one token per row."""
        rows = [row for row in self._rows.values() if not self._must_wait(row)]
        if not rows:
            return None
        self._steps += 1
        self._play_faults(rows)
        started = tuple(self._start(row) for row in rows if not row.begun)
        with device(self._options.device):
            took_ms, progress = self._compute(rows)
        ready = [row for row in rows if not row.left]
        tokens = tuple(self._next_token(row) for row in ready if not self._fails(row))
        kv_bytes = self._options.kv_bytes * sum(len(row) for row in rows)
        return Step(self._steps, took_ms, tokens, started, progress, len(tokens), kv_bytes)

    def _compute(self, rows: list[_Row]) -> tuple[float, tuple[tuple[int, int, int], ...]]:
        """Process prompts, as far as the chunk goes; the step's ms, and who is not through."""
        prompts = [row for row in rows if row.left]
        chunk = room = self._options.chunk or sum(row.left for row in prompts)
        for row in prompts:
            part = min(room, row.left)
            row.left, room = row.left - part, room - part
        took_ms = self._options.step_ms + (chunk - room) * self._options.prefill_ms_per_token
        took_ms *= self._options.slowness(self._steps)
        self._block(took_ms / 1000)
        for row in prompts:
            if not row.left:
                self._checkpoint(row)
        return took_ms, tuple(
            (row.request.id, len(row) - row.left, len(row)) for row in prompts if row.left
        )

    def _must_wait(self, row: _Row) -> bool:
        reuse = row.request.reuse
        row.waits = row.waits and reuse is not None and self._states.awaited(reuse.handle)
        return row.waits

    def _start(self, row: _Row) -> Started:
        cached = self._states.take(row.request)
        row.begun, row.left = True, len(row) - cached
        return Started(row.request.id, cached)

    def _checkpoint(self, row: _Row) -> None:
        """The prompt is processed: what was to be kept of it is there."""
        row.started = True
        for keep in row.request.keep:
            self._states.keep(keep.handle, row.ids[: keep.tokens])

    def _next_token(self, row: _Row) -> TokenOut:
        request = row.request
        piece, finish = self._piece(row)
        row.done += 1
        if finish is not None:
            self._states.keep(request.keep_end, row.ids[:-1])
            self._end(row)
        top = None
        if request.top_logprobs is not None:
            top = (TopLogprob(row.done, -0.1, piece),)[: request.top_logprobs]
        logprob = None if top is None else -0.1
        return TokenOut(request.id, row.done, piece, finish, logprob, top)

    def _piece(self, row: _Row) -> tuple[bytes, FinishReason | None]:
        """The row's next piece, and whether the answer ends with it."""
        if row.done >= len(row.pieces):
            return b"", "stop"
        return row.pieces[row.done], "length" if row.done + 1 >= row.request.max_tokens else None

    def _end(self, row: _Row) -> None:
        del self._rows[row.request.id]
        self._states.give_up(row.handles)
        self._emit(Released(row.request.id))

    def _fails(self, row: _Row) -> bool:
        """At the scripted step, end the oldest row alone."""
        if self._steps != self._options.fault_at_step or row is not next(iter(self._rows.values())):
            return False
        self._options = msgspec.structs.replace(self._options, fault_at_step=0)
        self._emit(Fault("scripted failure of a row", "step_failed", row.request.id))
        self._end(row)
        return True

    def _play_faults(self, rows: list[_Row]) -> None:
        if self._steps == self._options.die_at_step or any(map(self._is_poison, rows)):
            os._exit(9)
        if self._steps == self._options.hang_at_step:
            self._block(_FOREVER_S)
        if self._steps == self._options.raise_at_step:
            raise RuntimeError(self._options.raise_words)

    def _is_poison(self, row: _Row) -> bool:
        bad = self._options.die_on.encode()
        return bool(bad) and row.done >= self._options.die_after and bad in bytes(row.request.ids)


def create() -> Engine:
    """Make the engine."""
    return SimEngine()
