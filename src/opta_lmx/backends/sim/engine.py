"""The simulated engine: every byte of the prompt is a token, and answers are scripted.

Options (`Load.options`): `reply` (text, one token a word), `exact` (every blank of the reply is
kept, and none added at its end), `echo_sampling` (the reply is the sampling as JSON),
`echo_submit` (the reply is the whole `Submit` as JSON), `thinking` (prompts end inside a block of
reasoning), `lacks` (features the engine denies), `infill` (a `suffix` is taken), `step_ms`,
`prefill_ms_per_token`, `load_ms`, `prepare_ms`, and faults: `die_at_step`, `hang_at_step`,
`raise_at_step`, `fail_load`, `hang_template`. Zero or absent turns a fault off.
"""

import os
import re
from collections.abc import Callable

import msgspec

from opta_lmx.backends.frames import (
    Cancel,
    Load,
    Ready,
    Released,
    Started,
    Step,
    Submit,
    TokenOut,
    Tune,
)
from opta_lmx.backends.protocol import Emit, Engine, LoadError, PreparedPrompt, TextError, Texts
from opta_lmx.core.clock import block_for
from opta_lmx.core.types import Prompt, Speech, TopLogprob

_FOREVER_S = 3600.0


class SimOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the simulation plays."""

    reply: str = "one two three four"
    step_ms: float = 0.0
    prefill_ms_per_token: float = 0.0
    load_ms: float = 0.0
    prepare_ms: float = 0.0
    die_at_step: int = 0
    hang_at_step: int = 0
    raise_at_step: int = 0
    fail_load: str = ""
    hang_template: bool = False
    tool_dialect: str = "hermes"
    reasoning: str = ""
    echo_sampling: bool = False
    echo_submit: bool = False
    exact: bool = False
    thinking: bool = False
    lacks: tuple[str, ...] = ()
    infill: bool = False


class SimTexts:
    """Renders turns as `role: text` lines; one token per UTF-8 byte."""

    def __init__(self, options: SimOptions) -> None:
        self._options = options

    def prepare(self, prompt: Prompt, *, echo: bool = False) -> PreparedPrompt:
        """Render and tokenize."""
        if self._options.hang_template:
            block_for(_FOREVER_S)
        block_for(self._options.prepare_ms / 1000)
        if prompt.ids is not None:
            shown = bytes(token % 256 for token in prompt.ids).decode("utf-8", "replace")
            return self._made(prompt.ids, shown if echo else None)
        text = prompt.text
        if text is None:
            text = "".join(f"{m.role}: {m.content}\n" for m in prompt.messages)
        if prompt.suffix is not None and not self._options.infill:
            raise TextError("this model cannot fill in between a prompt and a suffix", "suffix")
        if not text:
            raise TextError("The prompt is empty.")
        ids = (text + (prompt.suffix or "")).encode()
        return self._made(tuple(ids), text if echo else None)

    def _made(self, ids: tuple[int, ...], text: str | None) -> PreparedPrompt:
        return PreparedPrompt(ids, text=text, thinking=self._options.thinking)


class _Row:
    """One running request."""

    def __init__(self, request: Submit, words: list[str]) -> None:
        self.request = request
        self.words = words
        self.done = 0
        self.prefill_left = len(request.ids)


class SimEngine:
    """Batches like a real engine: one token per running row and step."""

    def __init__(self, block: Callable[[float], None] = block_for) -> None:
        self._block = block
        self._rows: dict[int, _Row] = {}
        self._steps = 0
        self._options = SimOptions()

    def load(self, spec: Load, emit: Emit) -> tuple[Ready, Texts]:
        """Take the script from the options."""
        self._options = msgspec.convert(spec.options, SimOptions)
        self._emit = emit
        self._block(self._options.load_ms / 1000)
        if self._options.fail_load:
            raise LoadError(self._options.fail_load)
        ready = Ready(
            context=spec.context or 4096,
            slots=spec.slots,
            speech=Speech(self._options.tool_dialect, self._options.reasoning),
            engine="sim",
            lacks=self._options.lacks,
        )
        return ready, SimTexts(self._options)

    def submit(self, request: Submit) -> None:
        """Begin a row."""
        reply = self._options.reply
        if self._options.echo_sampling:
            reply = msgspec.json.encode(request.sampling).decode()
        if self._options.echo_submit:
            reply = msgspec.json.encode(request).decode()
        words = [word + " " for word in reply.split()]
        if self._options.exact or self._options.echo_submit:
            words = re.findall(r"\S+\s*|\s+", reply)
        self._rows[request.id] = _Row(request, words)

    def cancel(self, request: Cancel) -> None:
        """End a row at once."""
        if self._rows.pop(request.id, None) is not None:
            self._emit(Released(request.id))

    def tune(self, settings: Tune) -> None:
        """The simulation never stalls; nothing to change."""

    @property
    def busy(self) -> bool:
        """True while rows run."""
        return bool(self._rows)

    def step(self) -> Step | None:
        """Play one step: prefill of new rows, then one token per row."""
        if not self._rows:
            return None
        self._steps += 1
        self._play_faults()
        started = tuple(
            Started(row.request.id, 0)
            for row in self._rows.values()
            if row.prefill_left == len(row.request.ids) and row.done == 0
        )
        prefill_tokens = sum(row.prefill_left for row in self._rows.values())
        for row in self._rows.values():
            row.prefill_left = 0
        took_ms = self._options.step_ms + prefill_tokens * self._options.prefill_ms_per_token
        self._block(took_ms / 1000)
        tokens = tuple(self._next_token(row) for row in list(self._rows.values()))
        return Step(self._steps, took_ms, tokens, started, rows=len(tokens))

    def _next_token(self, row: _Row) -> TokenOut:
        request = row.request
        finish = None
        piece = b""
        if row.done < len(row.words):
            piece = row.words[row.done].encode()
            row.done += 1
            if row.done >= request.max_tokens:
                finish = "length"
        else:
            row.done += 1
            finish = "stop"
        if finish is not None:
            del self._rows[request.id]
            self._emit(Released(request.id))
        top = None
        if request.top_logprobs is not None:
            top = (TopLogprob(row.done, -0.1, piece),)[: request.top_logprobs]
        logprob = None if top is None else -0.1
        return TokenOut(request.id, row.done, piece, finish, logprob, top)

    def _play_faults(self) -> None:
        if self._steps == self._options.die_at_step:
            os._exit(9)
        if self._steps == self._options.hang_at_step:
            self._block(_FOREVER_S)
        if self._steps == self._options.raise_at_step:
            raise RuntimeError("scripted step failure")


def create() -> Engine:
    """Make the engine."""
    return SimEngine()
