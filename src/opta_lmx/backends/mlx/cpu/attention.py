"""Attention in tiles that stay in a core's cache: scores are never held for a whole prompt."""

from itertools import product
from typing import Any

import numpy as np

_TILE = 1 << 18
"""Scores in one tile: 1 MiB, what one core's second-level cache holds."""
_LEAST_ROWS = 128
"""Queries of all heads in a tile, at least: products with fewer leave the vector units waiting."""
_MOST_ROWS = 512
_LOWEST = np.finfo(np.float32).min
"""Stands for a hidden key. Finite: a row whose keys are all hidden must not come out as NaN,
which would reach its neighbours through the cache's padding."""


@np.errstate(all="ignore")  # as MLX does: what is infinite or no number stays so
def attend(queries: Any, keys: Any, values: Any, scale: float, mask: Any = None) -> Any:
    """Scaled dot-product attention, queries of several heads sharing keys and values.

    Args:
        queries: float32 [batch, heads, tokens, width].
        keys: float32 [batch, key heads, context, width]; heads is a multiple of key heads.
        values: float32 [batch, key heads, context, any width].
        scale: what the products are multiplied by.
        mask: "causal": the last query sees all, the one before it all but the last, and so on;
            or an array that broadcasts to [batch, 1, tokens, context], of booleans (true: seen)
            or of numbers to add to the scores; None: everything is seen.

    Returns:
        float32 [batch, heads, tokens, width of the values].
    """
    batch, heads, tokens, _ = queries.shape
    groups, context = keys.shape[1:3]
    shared = heads // groups
    out: Any = np.empty((batch, heads, tokens, values.shape[3]), np.float32)
    rows = min(_MOST_ROWS, max(1, _LEAST_ROWS // shared, _TILE // (shared * context)))
    tiles = [(first, min(first + rows, tokens)) for first in range(0, tokens, rows)]
    for row, (first, last) in product(range(batch), tiles):
        low, high, bias = _seen(mask, row, first, last, (tokens, context))
        for group in range(groups):
            mine = slice(group * shared, (group + 1) * shared)
            out[row, mine, first:last] = _tile(
                queries[row, mine, first:last] * np.float32(scale),
                keys[row, group, low:high],
                values[row, group, low:high],
                bias,
            )
    return out


def _tile(queries: Any, keys: Any, values: Any, bias: Any) -> Any:
    """One tile: queries [heads, tokens, width], keys and values [context, width]."""
    heads, tokens, width = queries.shape
    if not len(keys):
        return 0.0
    scores = queries.reshape(-1, width) @ keys.T
    if bias is not None:
        by_head = scores.reshape(heads, tokens, -1)
        by_head += bias
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    mixed = scores @ values
    mixed /= scores.sum(axis=-1, keepdims=True)
    return mixed.reshape(heads, tokens, -1)


def _seen(
    mask: Any, row: int, first: int, last: int, shape: tuple[int, int]
) -> tuple[int, int, Any]:
    """The range of keys that a tile's queries see, and what to add to its scores, if anything."""
    tokens, context = shape
    if mask is None:
        return 0, context, None
    if isinstance(mask, str):
        earlier = context - tokens
        ends: Any = np.arange(earlier + first, earlier + last)[:, None]
        return 0, earlier + last, _bias(np.arange(earlier + last)[None] <= ends)
    own = np.broadcast_to(mask[min(row, len(mask) - 1), 0], (tokens, context))[first:last]
    if own.dtype != np.bool_:
        return 0, context, own
    columns: Any = np.flatnonzero(own.any(axis=0))
    if not len(columns):
        return 0, 0, None
    low, high = int(columns[0]), int(columns[-1]) + 1
    own = own[:, low:high]
    return low, high, None if own.all() else _bias(own)


def _bias(seen: Any) -> Any:
    return np.where(seen, np.float32(0), _LOWEST)
