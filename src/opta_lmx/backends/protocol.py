"""What an adapter must offer the worker program. Two shapes exist: see `Engine` and `Texts`."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import msgspec

from opta_lmx.backends.frames import (
    Cache,
    Cancel,
    Embed,
    Load,
    Ready,
    Step,
    Submit,
    ToFront,
    Tune,
)
from opta_lmx.core.types import Prompt

Emit = Callable[[ToFront], None]
"""Sends one frame to the front; callable from any thread of the worker."""


class TextError(Exception):
    """The prompt cannot be rendered or tokenized; the message is shown to the caller.

    `param` is the request field at fault, where it is another than the prompt itself.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


LONGEST_PIECE = 128
"""Bytes no token exceeds: a prompt longer than this many times the window cannot fit."""
CANARY_FAILED = "canary_failed"
"""The code of a `LoadError`: the model is in memory, but does not work."""
ADAPTER_REFUSED = "adapter_refused"
"""The code of a `LoadError`: one of the adapters does not fit the model."""
ADAPTER_CHANGED = "adapter_changed"
"""The code of a `LoadError`: an adapter's files are others than those that were checked."""


class LoadError(Exception):
    """The model cannot be loaded. `code` and `adapter` as in `frames.Fault`."""

    def __init__(self, message: str, code: str = "load_failed", adapter: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.adapter = adapter


class PreparedPrompt(msgspec.Struct, frozen=True):
    """Token ids of the prompt and the offsets at which its turns start.

    `anchors` are the offsets that its author named (`Message.anchors`), rounded down to a token.
    `text` is the prompt's text, where it was asked for. `thinking`: it ends inside a block of
    reasoning, which the answer continues. `at_least` is set, and `ids` is empty, where the text
    is so long that it cannot fit: that many tokens or more.
    """

    ids: tuple[int, ...] = ()
    cuts: tuple[int, ...] = ()
    anchors: tuple[int, ...] = ()
    text: str | None = None
    thinking: bool = False
    at_least: int = 0


class Texts(Protocol):
    """Templates and tokenizer of one model; called on the worker's text thread only."""

    def prepare(self, prompt: Prompt, *, echo: bool = False) -> PreparedPrompt:
        """Render and tokenize; `echo` asks for the prompt's text too. Raises TextError."""
        ...


class Engine(Protocol):
    """The arithmetic of one model; every method is called on the worker's main thread only.

    `load` is called once and first. Then the worker calls, in a loop: `submit`/`cancel`/`tune`
    for every waiting command, and `step`. `step` runs at most one decode step for the whole
    batch (plus at most one bounded piece of prefill) and returns what happened, or None when
    there was nothing to do. An engine whose tokens arrive from elsewhere may wait inside
    `step`, but no longer than 5 ms. It emits `Released` for each request when its slot is
    free, after its last token, also for cancelled ones. It never raises for one request's
    sake: that is a `Fault` with the id, then `Released`.
    """

    def load(self, spec: Load, emit: Emit) -> tuple[Ready, Texts]:
        """Load the model. Raises LoadError. `emit` stays valid for the engine's life."""
        ...

    def submit(self, request: Submit) -> None:
        """Take a request; there is a free slot for it."""
        ...

    def cancel(self, request: Cancel) -> None:
        """Stop a request at any stage; unknown ids are ignored."""
        ...

    def tune(self, settings: Tune) -> None:
        """Apply a live setting."""
        ...

    def step(self) -> Step | None:
        """Advance by one step. An exception here means the batch is lost: the worker exits."""
        ...

    @property
    def busy(self) -> bool:
        """True while any request is unfinished, so `step` should be called again."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """An `Engine` of kind `embedding` or `rerank` has this beside the rest."""

    def embed(self, request: Embed) -> None:
        """Take a request; there is a free slot for it. `Embedded` and `Released` follow."""
        ...


@runtime_checkable
class Holder(Protocol):
    """An `Engine` whose `Ready.caches` is not `none` has this beside the rest.

    What becomes of held states is told by `CacheChanged`; it goes before the `Released` of the
    request that made the change, and after the tokens of the same step.
    """

    def cache(self, command: Cache) -> None:
        """Let go of held states, write some to files, read some back."""
        ...
