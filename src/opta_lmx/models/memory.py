"""How much memory a model will take, estimated from its headers."""

import math

import msgspec

from opta_lmx.models.description import ModelInfo

DEFAULT_UBATCH = 512
"""Tokens processed at once in prefill: sliding layers keep this many beyond their window."""
_OVERHEAD_BYTES = 64 << 20


class MemoryEstimate(msgspec.Struct, frozen=True):
    """Bytes: weights, caches, working buffers, and their sum."""

    weights: int
    kv: int
    buffers: int

    @property
    def total(self) -> int:
        """Everything together."""
        return self.weights + self.kv + self.buffers


def kv_bytes_per_token(info: ModelInfo, *, element_bytes: float = 2) -> int:
    """What one more token costs in the layers that keep all tokens."""
    kept = (group.layers * (group.key + group.value) for group in info.kv if not group.window)
    return math.ceil(element_bytes * sum(kept))


def kv_bytes(
    info: ModelInfo,
    *,
    context: int,
    slots: int,
    ubatch: int = DEFAULT_UBATCH,
    element_bytes: float = 2,
) -> int:
    """Bytes of all caches when full.

    Args:
        info: the model.
        context: tokens one slot may hold.
        slots: requests that run at once.
        ubatch: tokens processed at once in prefill.
        element_bytes: 2 for f16 and bf16, 4 for f32, `KV_TYPE_BYTES` for llama.cpp's.
    """
    total = 0
    for group in info.kv:
        cells = min(context, group.window + ubatch) if group.window else context
        total += group.layers * (group.key + group.value) * cells
    return math.ceil(total * slots * element_bytes)


def estimate(
    info: ModelInfo,
    *,
    context: int,
    slots: int,
    ubatch: int = DEFAULT_UBATCH,
    element_bytes: float = 2,
    weight_bytes: int | None = None,
) -> MemoryEstimate:
    """Estimate what the model takes once loaded, with every slot full.

    `weight_bytes` replaces the size on disk where weights are unpacked on loading (MLX in f32
    on a CPU: 4 x parameters). Buffers are a rule of thumb: the logits of every slot in f32,
    and a fixed share for the engine's own work.
    """
    weights = info.weights_bytes if weight_bytes is None else weight_bytes
    kv = kv_bytes(info, context=context, slots=slots, ubatch=ubatch, element_bytes=element_bytes)
    buffers = _OVERHEAD_BYTES + info.vocabulary * 4 * slots
    return MemoryEstimate(weights=weights, kv=kv, buffers=buffers)
