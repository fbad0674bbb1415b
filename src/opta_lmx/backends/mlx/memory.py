"""What caches take and what memory is left for them."""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

_SHARE = 0.8
"""Of the memory free after loading: the rest is for activations, tokenizers and the system."""
_PROBE_TOKENS = 8


def kv_bytes_per_request(model: Any, tokens: int) -> int:
    """Return the bytes one request's caches take at `tokens` tokens, measured on a short run."""
    return sum(_bytes_at(cache, tokens) for cache in probe(model))


def probe(model: Any) -> list[Any]:
    """Return the caches of one request after a few tokens."""
    caches = make_prompt_cache(model)
    logits = model(mx.zeros((1, _PROBE_TOKENS), mx.int32), cache=caches)
    mx.eval(logits, [cache.state for cache in caches])
    return caches


def free_bytes() -> int:
    """Return the bytes that caches may take now; 0 when that cannot be told."""
    info = mx.device_info()
    limit = info.get("max_recommended_working_set_size")
    if isinstance(limit, int) and limit:
        free = limit - mx.get_active_memory()
    else:
        bounds = [value for value in (_available(), _container()) if value is not None]
        free = min(bounds, default=0)
    return max(0, int(free * _SHARE))


def _bytes_at(cache: Any, tokens: int) -> int:
    """Bytes of one layer's cache at a length, from its bytes at the probe's length."""
    children: Iterable[Any] | None = getattr(cache, "caches", None)
    if children is not None:
        return sum(_bytes_at(child, tokens) for child in children)
    keys = getattr(cache, "keys", None)
    if not isinstance(keys, mx.array):
        return int(cache.nbytes)  # a state of fixed size
    window = getattr(cache, "max_size", None) or tokens
    return int(cache.nbytes / keys.shape[2] * min(tokens, window))


def _available() -> int | None:
    """Linux: memory that can be had without swapping."""
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container() -> int | None:
    """Linux: what the control group still allows."""
    group = Path("/sys/fs/cgroup")
    limit = "".join(_lines(group / "memory.max"))
    used = "".join(_lines(group / "memory.current"))
    return int(limit) - int(used) if limit.isdigit() and used.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
