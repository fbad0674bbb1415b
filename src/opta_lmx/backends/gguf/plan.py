"""Decides how llama.cpp is to be set up for one model on one machine: pure arithmetic.

The window of one request is, when nobody says otherwise, the model's own up to
`DEFAULT_CONTEXT` tokens. When every slot's full window fits the cache budget each slot gets a
cache of its own; otherwise all slots share one cache and requests wait until their part of it
is free, so that one request may still use the whole window.
"""

import math
from typing import Literal

import msgspec

from opta_lmx.backends.frames import Load
from opta_lmx.core.kv_cost import KV_TYPE_BYTES, KvType
from opta_lmx.models.description import ModelInfo

DEFAULT_CONTEXT = 32_768
SMALLEST_CONTEXT = 2_048
UNKNOWN_CONTEXT = 4_096
"""Used for a model whose files name no trained window."""

_ALIGN = 256
_SMALL_MODEL_BYTES = 1 << 30


class GgufOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may set for this backend (`Load.options`).

    `kv_bytes` is the budget for caches (0: an eighth of the machine's memory); `batch` the
    most prompt tokens evaluated in one go (0: chosen by size); `gpu_layers` how many layers
    go to the GPU (-1: all); `cache_prompt` whether a slot keeps its prompt for the next
    request; `checkpoints` how many restore points a slot may keep of its sliding windows, where
    memory does not allow to keep all they have seen; `kv_type` how keys and values are held.

    `slot_dir` is a folder in which slots are kept over a restart (empty: nowhere), each written
    when nothing ran for `slot_quiet_s` seconds. `slot_bytes` bounds the files of kept slots, and
    those of what is put aside: paused requests whose slot another one needed, and beginnings that
    several requests share.
    """

    kv_bytes: int = 0
    batch: int = 0
    gpu_layers: int = -1
    cache_prompt: bool = True
    checkpoints: int = 4
    kv_type: KvType = "f16"
    slot_dir: str = ""
    slot_bytes: int = 4 << 30
    slot_quiet_s: float = 3.0


class Machine(msgspec.Struct, frozen=True):
    """What the plan needs to know of the hardware; `cores` are physical ones."""

    memory_bytes: int
    cores: int
    accelerator: bool


class Plan(msgspec.Struct, frozen=True):
    """How the server is started.

    `context` is the window of one request; `cells` the tokens all caches hold together;
    `shared` whether they form one cache; `cell_bytes` what one token takes in them;
    `whole_windows` says that layers which see a window only keep all they have seen, so that any
    beginning of a slot's tokens can be used again; where that takes too much, `checkpoints` are
    the restore points of each slot, which together take a quarter of the budget.
    `pooling` is empty for a model that makes text; others start the server for vectors: `own`
    leaves their making to the file, `mean` and `rank` prescribe it.
    `draft` is the file of the model that guesses `draft_tokens` ahead (empty: none);
    `adapters` are the files of LoRA adapters, in the order of their ids.
    """

    context: int
    slots: int
    cells: int
    shared: bool
    batch: int
    threads: int
    cell_bytes: int
    checkpoints: int
    pooling: Literal["", "own", "mean", "rank"] = ""
    whole_windows: bool = False
    draft: str = ""
    draft_tokens: int = 0
    adapters: tuple[str, ...] = ()


def make_plan(info: ModelInfo, spec: Load, options: GgufOptions, machine: Machine) -> Plan:
    """Fit windows, slots and batch to the machine; an explicit `spec.context` is kept.

    Args:
        info: the model; where it has a draft model, with that one's weights and caches.
        spec: what was asked for.
        options: the backend's own.
        machine: this one.
    """
    usual = _batch(info.weights_bytes, machine.accelerator)
    batch = options.batch or max(usual, least_batch(spec))
    budget = options.kv_bytes or machine.memory_bytes // 8
    element = KV_TYPE_BYTES[options.kv_type]
    whole = _whole_windows(info, spec, budget, element)
    fixed, cell_bytes = _cache_costs(info, batch, element, whole=whole)
    room = max(0, budget - fixed * spec.slots) // max(1, cell_bytes)
    context = _context(info.context_length or UNKNOWN_CONTEXT, spec.context, room)
    window = _round_up(context)
    shared = cell_bytes > 0 and window * spec.slots > room
    cells = max(window, room - room % _ALIGN) if shared else window * spec.slots
    threads = spec.threads or (1 if machine.cores <= 2 else machine.cores)
    checkpoints = min(options.checkpoints, budget // 4 // max(1, fixed * spec.slots))
    return Plan(
        context,
        spec.slots,
        cells,
        shared,
        batch,
        threads,
        cell_bytes,
        0 if whole else checkpoints,
        whole_windows=whole,
        draft=spec.draft,
        draft_tokens=spec.draft_tokens if spec.draft else 0,
        adapters=tuple(spec.adapters.values()),
    )


def least_batch(spec: Load) -> int:
    """Tokens that must fit one batch: llama.cpp aborts where the guesses of all slots do not."""
    return spec.slots * (spec.draft_tokens + 1) if spec.draft else 1


def _whole_windows(info: ModelInfo, spec: Load, budget: int, element: float) -> bool:
    """Whether layers with a window can keep everything, for every slot's full context."""
    if not any(group.window for group in info.kv):
        return False
    _, cell_bytes = _cache_costs(info, 0, element, whole=True)
    trained = info.context_length or UNKNOWN_CONTEXT
    window = _round_up(min(trained, spec.context or DEFAULT_CONTEXT))
    return window * spec.slots * cell_bytes <= budget


def _context(trained: int, wanted: int, room: int) -> int:
    if wanted:
        return min(wanted, trained)
    usual = min(trained, DEFAULT_CONTEXT)
    return min(usual, max(room - room % _ALIGN, SMALLEST_CONTEXT))


def _cache_costs(info: ModelInfo, batch: int, element: float, *, whole: bool) -> tuple[int, int]:
    """Bytes a slot takes whatever its length, and bytes for each token of its window.

    `element` are those of one number.
    """
    fixed = per_token = 0
    for group in info.kv:
        size = math.ceil(group.layers * (group.key + group.value) * element)
        if group.window and not whole:
            fixed += size * (group.window + batch)
        else:
            per_token += size
    return fixed, per_token


def _batch(weights_bytes: int, accelerator: bool) -> int:
    """Well under a second's work: a cancel waits for two batches, another stream for one."""
    # On a CPU a batch of 64 costs the same per token as one of 512: measured, 4.4 and 6.6 ms.
    if accelerator:
        return 512
    return 64 if weights_bytes <= _SMALL_MODEL_BYTES else 32


def _round_up(tokens: int) -> int:
    return -(-tokens // _ALIGN) * _ALIGN
