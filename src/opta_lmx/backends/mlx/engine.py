"""The engine protocol on MLX. Imports MLX only when a model is loaded."""

import gc
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from opta_lmx.backends.frames import (
    Announce,
    Cache,
    Cancel,
    Load,
    Ready,
    Step,
    Submit,
    ToFront,
    Tune,
)
from opta_lmx.backends.mlx.pacing import Pace
from opta_lmx.backends.protocol import (
    ADAPTER_REFUSED,
    CANARY_FAILED,
    Emit,
    Engine,
    LoadError,
    Texts,
)
from opta_lmx.backends.shortage import is_out_of_memory
from opta_lmx.backends.text.infill import find_infill
from opta_lmx.backends.text.template import ChatTemplate, load_template
from opta_lmx.backends.text.texts import TemplateTexts
from opta_lmx.codec.tools.dialects import markers_of
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.types import SamplingParams

if TYPE_CHECKING:
    from opta_lmx.backends.mlx.batch import Batch
    from opta_lmx.backends.mlx.loader import LoadedModel, MlxOptions
    from opta_lmx.backends.refusal import Limits
    from opta_lmx.core.kv_cost import KvCost

_IMPORT_S = 20.0
_LOAD_FLOOR_S = 20.0
_SLOWEST_DISK = 50e6
"""Bytes per second a cold disk surely gives, for the load's predicted time."""
_WARM_UP_S = 60.0
_WARM_UP_TOKENS = 32
_SLOW_S = 10.0
"""A first warm-up that took longer is not repeated, though it measured compilation too."""


class MlxEngine:
    """One model on MLX, all its requests in one batch."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._emit: Emit | None = None

    def load(self, spec: Load, emit: Emit) -> tuple[Ready, Texts]:
        """Load the folder at `spec.path`, cast, compile and measure. Raises LoadError."""
        emit(Announce("import", _IMPORT_S))
        try:
            from opta_lmx.backends.mlx import loader
        except ImportError as error:
            message = f"MLX cannot be imported ({error}); install opta-lmx[mlx]"
            raise LoadError(message, "missing_extra") from error
        except (OSError, ValueError) as error:  # mlx-lm changes the limit of open files
            raise LoadError(f"MLX cannot be imported: {error}") from error
        options = loader.read_options(spec.options)
        loader.hold_to(options)
        path = Path(spec.path)
        emit(Announce("load", _load_s(path, *map(Path, spec.adapters.values()))))
        loaded = loader.load(path, options, spec.adapters)
        tokenizer = loaded.tokenizer
        template = load_template(
            spec,
            loaded.folder.template,
            tokenizer.has_token,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
        )
        tokenizer.keep(markers_of(template.speech))
        emit(Announce("warm-up", _WARM_UP_S))
        try:
            limits = _limits(spec, loaded)
            room = _room(loaded, options, limits)
            self._batch = _make_batch(loaded, limits, room, self._tell)
            _warm_up(self._batch)
            _try_adapters(self._batch, emit)
            ready = _ready(loaded, limits, room, template)
        except loader.LOAD_ERRORS as error:
            code = "load_failed" if is_out_of_memory(error) else CANARY_FAILED
            raise LoadError(f"the model does not run: {error}", code) from error
        self._emit = emit
        # What loading left behind lives as long as the process: not worth scanning again.
        gc.collect()
        gc.freeze()
        infill = find_infill(tokenizer.token_id)
        # A state that can be cut serves any place of a prompt: nobody need say which.
        anchored = ready.caches == "whole"
        return ready, TemplateTexts(template, tokenizer, infill, ready.context, anchored=anchored)

    def submit(self, request: Submit) -> None:
        """Take a request; it starts with the next step that has room for its prompt."""
        self._loaded.submit(request)

    def cancel(self, request: Cancel) -> None:
        """End a request at any stage before the next step; one that is held may end with it."""
        self._loaded.cancel(request)

    def cache(self, command: Cache) -> None:
        """Let go of held states, write some to files, read some back."""
        self._loaded.cache(command)

    def tune(self, settings: Tune) -> None:
        """Set the longest pause a prompt may cause."""
        self._loaded.pace.stall_target_ms = settings.stall_target_ms

    def step(self) -> Step | None:
        """Advance every request by one step."""
        return self._loaded.step()

    @property
    def busy(self) -> bool:
        """True while any request is unfinished."""
        return self._loaded.busy

    def _tell(self, frame: ToFront) -> None:
        """Nobody is told of the requests that warm the engine up."""
        if self._emit is not None:
            self._emit(frame)

    @property
    def _loaded(self) -> "Batch":
        assert self._batch is not None, "load comes first"
        return self._batch


def create() -> Engine:
    """Make the engine."""
    return MlxEngine()


class _Room(NamedTuple):
    """The memory for caches: its bytes, what rows take of them, what padding may take (bytes)."""

    kv_bytes: int
    cost: "KvCost"
    spare: int


def _limits(spec: Load, loaded: "LoadedModel") -> "Limits":
    from opta_lmx.backends.refusal import Limits

    return Limits(
        vocabulary=loaded.folder.vocabulary or loaded.tokenizer.vocab_size,
        context=min(spec.context or loaded.folder.context, loaded.folder.context),
        slots=spec.slots,
        adapters=tuple(spec.adapters),
    )


def _room(loaded: "LoadedModel", options: "MlxOptions", limits: "Limits") -> _Room:
    from opta_lmx.backends.mlx import memory

    cost = memory.kv_cost(memory.probe(loaded.model))
    allowed = options.kv_bytes or memory.free_bytes()
    # Padding that costs no more time than another batch, and not too much memory.
    spare = min(loaded.weights_bytes, (allowed or loaded.weights_bytes) // memory.SPARE_PART)
    kv_bytes, cost = memory.budget(cost, limits, allowed, spare if limits.slots > 1 else 0)
    # Nor more than what the budget leaves for it.
    return _Room(kv_bytes, cost, min(spare, cost.peak))


def _make_batch(loaded: "LoadedModel", limits: "Limits", room: _Room, emit: Emit) -> "Batch":
    from opta_lmx.backends.mlx.batch import Batch
    from opta_lmx.backends.mlx.running import Running, Width

    width = Width(room.cost.at, room.spare)
    ends = loaded.tokenizer.eos_ids
    running = Running(loaded.model, ends, limits.slots, width, loaded.adapters)
    return Batch(running, loaded.tokenizer, limits, Pace(), emit)


def _ready(loaded: "LoadedModel", limits: "Limits", room: _Room, template: ChatTemplate) -> Ready:
    from opta_lmx.backends.mlx import caches, loader, memory

    return Ready(
        context=limits.context,
        slots=limits.slots,
        kv_bytes=room.kv_bytes,
        kv=room.cost,
        weights_bytes=loaded.weights_bytes,
        speech=template.speech,
        template_source=template.source_kind,
        sampling=loaded.folder.sampling,
        engine=loader.engine_name(),
        vocabulary=limits.vocabulary,
        repeatable=loader.is_repeatable(loaded.model),
        caches=caches.ability(memory.probe(loaded.model), limits.context),
        resumes="all",
        pauses=True,
    )


def _load_s(*folders: Path) -> float:
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    size = sum(file.stat().st_size for file in files)
    return _LOAD_FLOOR_S + size / _SLOWEST_DISK


def _warm_up(batch: "Batch") -> None:
    """Run two short requests, twice: once to compile kernels, once to measure the pace."""
    clock = SystemClock()
    for _ in range(2):
        batch.pace = Pace()
        began = clock.monotonic()
        _run_short(batch, 2)
        if clock.monotonic() - began > _SLOW_S:
            return


def _try_adapters(batch: "Batch", emit: Emit) -> None:
    """Run one short request with each adapter; what they take is not the model's pace."""
    pace = batch.pace
    for name in batch.limits.adapters:
        batch.pace = Pace()
        emit(Announce("warm-up", _WARM_UP_S))
        try:
            made = _run_short(batch, 1, name)
        except LoadError:
            made = 0
        if not made:
            message = f"the adapter '{name}' cannot be used: the model does not run with it"
            raise LoadError(message, ADAPTER_REFUSED, name)
    batch.pace = pace


def _run_short(batch: "Batch", rows: int, adapter: str = "") -> int:
    """Run so many short requests; the tokens they made. Raises LoadError if they make no sense."""
    ids = tuple(range(min(_WARM_UP_TOKENS, batch.limits.context // 2)))
    sampling = SamplingParams(temperature=0.0)
    for request in range(1, rows + 1):
        batch.submit(Submit(request, ids, sampling, 3, top_logprobs=0, adapter=adapter))
    made = 0
    while (step := batch.step()) is not None:
        made += len(step.tokens)
        if any(not math.isfinite(token.logprob or 0.0) for token in step.tokens):
            message = "the weights give no finite probabilities; they may be corrupt"
            raise LoadError(message, CANARY_FAILED)
    return made
