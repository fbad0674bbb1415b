"""What is done with one sequence's caches: told apart, copied, cut shorter, laid out as bytes."""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as classes
from mlx_lm.models.cache import (
    ArraysCache,
    KVCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    trim_prompt_cache,
)

from opta_lmx.backends.frames import CacheAbility
from opta_lmx.backends.statefile import ArrayOf

Caches = list[Any]
"""One cache per layer, of one sequence."""


def ability(caches: Sequence[Any], context: int) -> CacheAbility:
    """What can be done with held states of a model whose new caches these are.

    A sliding window forgets, so its state serves no shorter prefix, unless the window is longer
    than any prompt; a state of fixed size (SSM, convolution) never does.
    """
    leaves = list(_leaves(caches))
    if not leaves or not all(hasattr(leaf, "merge") for leaf in leaves):
        return "none"
    trimmable = all(
        _is(leaf, KVCache) or (_is(leaf, RotatingKVCache) and leaf.max_size > context)
        for leaf in leaves
    )
    return "trimmable" if trimmable else "whole"


def fork(caches: Caches, surplus: int = 0) -> Caches | None:
    """A copy without the last `surplus` tokens, None where that cannot be; memory is shared."""
    copied = copy.deepcopy(caches)
    return copied if cut(copied, surplus) else None


def cut(caches: Caches, surplus: int) -> bool:
    """Take the last `surplus` tokens off, in place; False, and nothing done, where that fails."""
    if surplus > 0:
        if not can_trim_prompt_cache(caches):
            return False
        trim_prompt_cache(caches, surplus)
    return True


def settle(caches: Caches) -> int:
    """Compute the arrays and cut off room that is not in use; return their bytes.

    Memory shared with another state or with a running row is counted in full.
    """
    for leaf in _leaves(caches):
        if _is(leaf, KVCache):
            leaf.keys, leaf.values = (
                _first(part, leaf.offset) for part in (leaf.keys, leaf.values)
            )
        elif _is(leaf, RotatingKVCache):
            _unroll(leaf)
        elif _is(leaf, ArraysCache):
            leaf.cache = [None if part is None else mx.contiguous(part) for part in leaf.cache]
    arrays = list(_arrays([cache.state for cache in caches]))
    mx.eval(arrays)
    return sum(int(array.nbytes) for array in arrays)


def covered(caches: Caches) -> int | None:
    """How many tokens these caches hold, where any of them counts."""
    offsets = [leaf.offset for leaf in _leaves(caches) if _is(leaf, KVCache, RotatingKVCache)]
    return int(offsets[0]) if offsets else None


def form(caches: Caches) -> str:
    """What must be equal of two states for both to fit the same model, whatever their lengths."""
    return repr([_form(leaf) for leaf in _leaves(caches)])


# --- bytes


def flatten(caches: Caches) -> tuple[Any, list[Any]]:
    """The caches as plain values and, in order, the arrays among them.

    Raises:
        TypeError: a cache is not one of mlx-lm's own, or holds something else.
    """
    arrays: list[Any] = []
    for leaf in (*_leaves(caches), *caches):
        if getattr(classes, type(leaf).__name__, None) is not type(leaf):
            raise TypeError(f"{type(leaf).__name__} cannot be written")
    structure = [[type(cache).__name__, _plain(cache.state, arrays)] for cache in caches]
    return structure, arrays


def unflatten(structure: Any, arrays: Sequence[Any]) -> Caches:
    """The caches that `flatten` took apart. Any exception means that the structure is wrong."""
    return [
        getattr(classes, name).from_state(_restored(state, arrays)) for name, state in structure
    ]


def describe(array: Any) -> ArrayOf:
    """An array's type and shape."""
    return ArrayOf(str(array.dtype).rpartition(".")[2], array.dtype.size, tuple(array.shape))


def view_bytes(arrays: Sequence[Any]) -> list[Any]:
    """The arrays' bytes without copying them, for reading on any thread; they must be settled."""
    flat = [array.reshape(-1).view(mx.uint8) for array in arrays]
    mx.eval(flat)
    return [memoryview(array).cast("B") if array.size else b"" for array in flat]


def from_bytes(data: memoryview, of: ArrayOf) -> Any:
    """A new array of these bytes."""
    flat: Any = np.frombuffer(data, dtype=np.uint8)
    return (
        mx.array(flat)
        .view(getattr(mx, "bool_" if of.dtype == "bool" else of.dtype))
        .reshape(of.shape)
    )


# --- inside


def _leaves(caches: Sequence[Any]) -> Iterator[Any]:
    for cache in caches:
        children = cast("Sequence[Any] | None", getattr(cache, "caches", None))
        if children is None:
            yield cache
        else:
            yield from _leaves(children)


def _is(leaf: Any, *kinds: type) -> bool:
    """Exactly one of these classes: what a model derives from them may mean something else."""
    return type(leaf) in kinds


def _arrays(value: Any) -> Iterator[Any]:
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from _arrays(item)


def _first(array: Any, length: int) -> Any:
    if array is None:
        return None
    return mx.contiguous(array if array.shape[2] == length else array[..., :length, :])


def _unroll(cache: Any) -> None:
    """Put a window in order of time, without the slack that processing a chunk leaves."""
    if cache.keys is None:
        return
    keys, values = (cache._temporal_order(part) for part in (cache.keys, cache.values))  # noqa: SLF001
    excess = max(0, keys.shape[2] - cache.max_size)
    cache.keys, cache.values = (mx.contiguous(part[..., excess:, :]) for part in (keys, values))
    cache._idx = cache.keys.shape[2]  # noqa: SLF001


def _form(leaf: Any) -> Any:
    arrays = list(_arrays(leaf.state))
    kinds = [str(array.dtype) for array in arrays]
    shapes = [list(array.shape) for array in arrays]
    if _is(leaf, KVCache, RotatingKVCache):
        for shape in shapes:
            shape[2] = 0  # the tokens
    return [type(leaf).__name__, kinds, shapes, getattr(leaf, "max_size", None)]


def _plain(value: Any, arrays: list[Any]) -> Any:
    if isinstance(value, mx.array):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays) for item in cast("Sequence[Any]", value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written")


def _restored(value: Any, arrays: Sequence[Any]) -> Any:
    if isinstance(value, dict):
        return arrays[value["array"]]
    if isinstance(value, list):
        return [_restored(item, arrays) for item in cast("list[Any]", value)]
    return value
