"""What memory a model is given before it is loaded: from its headers, within the budget."""

import os
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.backends import registry
from opta_lmx.backends.frames import Load
from opta_lmx.backends.gguf.plan import DEFAULT_CONTEXT, SMALLEST_CONTEXT, UNKNOWN_CONTEXT
from opta_lmx.backends.quantize.rules import PLAIN
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.core.kv_cost import KV_TYPE_BYTES
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.memory import estimate, kv_bytes
from opta_lmx.scheduling.ledger import MemoryNeed

_SHARE = 0.75
"""Of the machine's memory for models, unless configured: the rest is the system's and ours."""
_GGUF_CACHES = 8
"""llama.cpp's caches take at most this part of the machine's memory, unless configured."""
_BUFFER_SHARE = 16
_MOST_BUFFERS = 1 << 30
_MLX_BYTES = 96 << 20
"""What MLX and Python take besides; llama.cpp's worker stays within the estimate's buffers."""
_WHOLE_STATES = 2
"""A state that cannot be cut serves its own length only, so that a conversation needs several.

For them there is as much again as all rows take, where the memory is there.
"""
_F32_BYTES = 4
_SCALES_GROWTH = 4 / 3
"""Of packed weights whose scales become f32: from 3 bits a weight to 4 at the most (2, by 32)."""
_ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_CONTAINER = Path("/sys/fs/cgroup/memory.max")


class Sized(msgspec.Struct, frozen=True):
    """What a model is given, and the engine options (`Load.options`) that hold it to that."""

    need: MemoryNeed
    options: dict[str, Any]


def machine_bytes() -> int:
    """The machine's memory, or what this process's control group may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CONTAINER.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def budget_bytes(settings: MemorySettings) -> int:
    """Bytes for all models together."""
    return settings.budget_bytes or int(_SHARE * machine_bytes())


class Sizing:
    """Estimates models and divides the budget.

    Args:
        settings: the memory section.
    """

    def __init__(self, settings: MemorySettings) -> None:
        self._settings = settings
        self._budget = budget_bytes(settings)
        self._machine = machine_bytes()

    def of(self, info: ModelInfo, load: Load, held_bytes: int = 0) -> Sized:
        """Size one model up.

        Args:
            info: what its files say.
            load: how it is to be loaded.
            held_bytes: what processed prompts may take besides the caches of running rows.
        """
        on_mlx = load.backend == "mlx"
        element = _element_bytes(load)
        context = load.context or info.context_length or UNKNOWN_CONTEXT
        if not (on_mlx or load.context):
            context = min(context, DEFAULT_CONTEXT)
        full = estimate(
            info,
            context=context,
            slots=load.slots,
            element_bytes=element,
            weight_bytes=_weights(info, load, element),
        )
        peak = full.buffers + (self._buffers(load) or 0) + (_MLX_BYTES if on_mlx else 0)
        room = self._budget - full.weights - peak - held_bytes
        least = kv_bytes(
            info, context=min(context, SMALLEST_CONTEXT), slots=1, element_bytes=element
        )
        asked = load.options.get("kv_bytes")
        caches = 0
        if load.kind == "chat":
            most = min(room, self._most(load, room))
            useful = full.kv * (_WHOLE_STATES if on_mlx and _windowed(info) else 1)
            caches = min(useful, asked if isinstance(asked, int) and asked else max(least, most))
        need = MemoryNeed(full.weights, caches + held_bytes, peak)
        return Sized(need, self._options(load, need, caches, full.kv))

    def _most(self, load: Load, room: int) -> int:
        """What caches may take where `room` is left by the weights."""
        if load.backend == "mlx":
            return int(self._settings.cache_share * room)
        return self._machine // _GGUF_CACHES

    def _options(self, load: Load, need: MemoryNeed, caches: int, full: int) -> dict[str, Any]:
        """Only where it must make do with less than it would take itself is llama.cpp told."""
        if load.backend == "gguf":
            less = load.kind == "chat" and caches < min(full, self._machine // _GGUF_CACHES)
            return {"kv_bytes": caches} if less else {}
        options: dict[str, Any] = {
            "memory_bytes": need.total,
            "cache_bytes": self._buffers(load),
            "wired_bytes": self._wired(need),
        }
        if load.kind == "chat":
            options["kv_bytes"] = caches
        return {name: value for name, value in options.items() if value is not None}

    def _buffers(self, load: Load) -> int | None:
        """Freed buffers that MLX may keep; None where its own small default is right (a CPU)."""
        if load.backend != "mlx":
            return None
        asked = self._settings.mlx_cache_bytes
        if asked is not None or not registry.has_accelerator():
            return asked
        return min(_MOST_BUFFERS, self._budget // _BUFFER_SHARE)

    def _wired(self, need: MemoryNeed) -> int:
        asked = self._settings.mlx_wired_bytes
        return need.weights + need.kv if asked is None else asked


def _windowed(info: ModelInfo) -> bool:
    """True when what is cached of a prompt cannot be cut to a shorter one."""
    return any(group.window for group in info.kv)


def _element_bytes(load: Load) -> float:
    """Bytes of a cached number: MLX on a CPU computes in f32."""
    if load.backend != "mlx":
        return KV_TYPE_BYTES.get(str(load.options.get("kv_type", "f16")), 2)
    usual = 2 if registry.has_accelerator() else _F32_BYTES
    return _ELEMENT_BYTES.get(str(load.options.get("dtype", "auto")), usual)


def _weights(info: ModelInfo, load: Load, element: float) -> int:
    """Bytes of the weights once loaded; packed ones stay packed, but for GGUF on MLX."""
    if load.backend != "mlx":
        return info.weights_bytes
    if info.format == "gguf" or (element == _F32_BYTES and info.quantisation in PLAIN):
        return max(info.weights_bytes, int(element * info.parameters))
    if element == _F32_BYTES:
        return int(_SCALES_GROWTH * info.weights_bytes)
    return info.weights_bytes
