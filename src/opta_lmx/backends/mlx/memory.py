"""What caches take and what memory is left for them."""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

import contextlib
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.models.cache import make_prompt_cache

from opta_lmx.backends.mlx.pacing import MAX_CHUNK
from opta_lmx.backends.refusal import Limits
from opta_lmx.core.kv_cost import KvCost

_SHARE = 0.8
"""Of the memory free after loading: the rest is for activations, tokenizers and the system."""
SPARE_PART = 8
"""Of the memory for caches, this part may go into padding."""
_PROBE_TOKENS = 8
_AHEAD = 255
"""mlx-lm takes memory for 256 tokens at a time."""


def kv_cost(caches: Iterable[Any]) -> KvCost:
    """Return what the caches of a request take, by those of a short one (`probe`)."""
    parts = [part for cache in caches for part in _parts(cache)]
    growing: Counter[int] = Counter()
    for size, window, fixed in parts:
        if not fixed:
            growing[window] += size
    layers = tuple((size, window) for window, size in growing.items())
    return KvCost(layers, sum(size for size, _, fixed in parts if fixed), slack=_AHEAD)


def budget(cost: KvCost, limits: Limits, allowed: int, spare: int) -> tuple[int, KvCost]:
    """Return the bytes that caches are given, and what rows take of them.

    A request that fills the window can run where there is memory for it: padding, and what
    windows exceed themselves by while a prompt is processed, have what is left besides.

    Args:
        cost: of a row.
        limits: how many rows there are, and how long.
        allowed: bytes that may be given (0: unknown).
        spare: bytes that padding may take.
    """
    peak = spare + MAX_CHUNK * sum(each for each, window in cost.layers if window)
    wanted = limits.slots * cost.at(limits.context) + peak
    size = min(wanted, allowed) if allowed else wanted
    window = cost.at(limits.context)
    if msgspec.structs.replace(cost, slack=0).at(limits.context) <= size < window:
        size = window  # it was meant to do for a whole window
    # A window that memory does not hold is never filled: there is no more to leave for it.
    room = size - window if size >= window else size // SPARE_PART
    peak = max(0, min(peak, room))
    return size, msgspec.structs.replace(cost, peak=peak)


def probe(model: Any) -> list[Any]:
    """Return the caches of one request after a few tokens."""
    caches = make_prompt_cache(model)
    logits = model(mx.zeros((1, _PROBE_TOKENS), mx.int32), cache=caches)
    mx.eval(logits, [cache.state for cache in caches])
    return caches


def hold(memory: int | None, cache: int | None, wired: int | None) -> None:
    """Lower MLX's own limits (bytes; None: as they are); they are hints and hold nobody back."""
    for ours, change in ((memory, mx.set_memory_limit), (cache, mx.set_cache_limit)):
        if ours is not None and (usual := change(ours)) < ours:
            change(usual)
    most = mx.device_info().get("max_recommended_working_set_size")
    if wired is not None and isinstance(most, int):
        # Machines went down with all of it wired (ml-explore/mlx#3186).
        mx.set_wired_limit(min(wired, int(most * _SHARE)))


@contextlib.contextmanager
def wired_as_before() -> Generator[None]:
    """Undo that mlx-lm's generators, when made, have everything wired that the device can."""
    limit = mx.set_wired_limit(0)
    try:
        yield
    finally:
        mx.set_wired_limit(limit)


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


def _parts(cache: Any) -> list[tuple[int, int, bool]]:
    """One layer's (bytes, window in tokens, whether those bytes are all and not of one token)."""
    children: Iterable[Any] | None = getattr(cache, "caches", None)
    if children is not None:
        return [part for child in children for part in _parts(child)]
    keys = getattr(cache, "keys", None)
    if not isinstance(keys, mx.array):
        return [(int(cache.nbytes), 0, True)]  # a state of fixed size
    return [(int(cache.nbytes // keys.shape[2]), getattr(cache, "max_size", None) or 0, False)]


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
