"""Puts numpy's kernels in the place of MLX's where they are faster: prompts on a Linux CPU.

MLX has vector code for Apple's processors alone; elsewhere it raises e to a power one number at
a time, which is most of what attention and gates cost there. Numpy does sixteen at once. A call
to numpy has to wait for its operands, so single tokens, whose step MLX computes while Python
prepares the next, are left to MLX; so is the last layer, most of which nobody reads.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (mlx and mlx-lm are only partly typed)

import sys
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import activations, cache

from opta_lmx.backends.mlx.cpu.attention import attend
from opta_lmx.backends.mlx.cpu.forwards import Forwards

LEAST_TOKENS = 16
"""Fewer tokens of a row than this are left to MLX."""

forwards = Forwards()
"""Of the model in this process."""

_mlx_attention: Any = mx.fast.scaled_dot_product_attention
_mlx_swiglu: Any = activations.swiglu
_mlx_roll: Any = cache.dynamic_roll


def install() -> bool:
    """Use numpy for prompts from here on, in this process; False where MLX is as good.

    Models take `swiglu` by name when they are first imported, so this goes before any load.
    """
    if sys.platform != "linux" or mx.default_device().type != mx.DeviceType.cpu:
        return False
    mx.fast.scaled_dot_product_attention = attention
    activations.swiglu = swiglu
    cache.dynamic_roll = roll
    return True


def remove() -> None:
    """Use MLX's own kernels again."""
    mx.fast.scaled_dot_product_attention = _mlx_attention
    activations.swiglu = _mlx_swiglu
    cache.dynamic_roll = _mlx_roll


def attention(q: Any, k: Any, v: Any, *, scale: float, mask: Any = None, **others: Any) -> Any:
    """`mx.fast.scaled_dot_product_attention`, to within rounding."""
    forwards.attend()
    known = others.get("sinks") is None and _plain(q, k, v) and _for_all_heads(mask)
    if known and _many(q, axis=2) and _fit(q, k, v) and not forwards.at_end:
        try:
            return mx.array(attend(_view(q), _view(k), _view(v), scale, _seen(mask)))
        except ValueError:  # inside mx.compile, which has no values yet
            pass
    return _mlx_attention(q, k, v, scale=scale, mask=mask, **others)


def swiglu(gate: Any, x: Any) -> Any:
    """`gate` times its sigmoid times `x`, to within rounding."""
    known = gate.ndim == 3 and gate.shape == x.shape and _plain(gate, x)
    if known and _many(gate, axis=1) and not forwards.at_end:
        try:
            return mx.array(_gated(_view(gate), _view(x)))
        except ValueError:  # inside mx.compile, which has no values yet
            pass
    return _mlx_swiglu(gate, x)


def roll(x: Any, shifts: Any, axis: int) -> Any:
    """mlx-lm's `dynamic_roll`: each row of a cache moved on by its own shift, along its tokens.

    MLX looks every number's place up; here whole stretches are copied.
    """
    if not (_plain(x) and x.ndim == 4 and axis == 2 and x.size and shifts.shape == (len(x), 1)):
        return _mlx_roll(x, shifts, axis)
    return mx.array(_rolled(_view(x), shifts[:, 0].tolist()))


def _rolled(rows: Any, shifts: list[int]) -> Any:
    out: Any = np.empty_like(rows)
    tokens = rows.shape[2]
    for row, shift in enumerate(shifts):
        end = shift % tokens
        out[row, :, end:] = rows[row, :, : tokens - end]
        out[row, :, :end] = rows[row, :, tokens - end :]
    return out


def _gated(gate: Any, x: Any) -> Any:
    with np.errstate(all="ignore"):  # as MLX does: what is infinite or no number stays so
        out = np.exp(-gate)
        out += 1
        np.divide(gate, out, out=out)
        out *= x
    return out


def _many(array: Any, axis: int) -> bool:
    return array.shape[axis] >= LEAST_TOKENS


def _fit(q: Any, k: Any, v: Any) -> bool:
    """Whether these are states that MLX takes, and there are any keys."""
    rows, groups, context, width = k.shape
    same = len(q) == len(v) == rows and v.shape[1:3] == (groups, context) and q.shape[3] == width
    return same and context > 0 and q.shape[1] % groups == 0


def _plain(*arrays: Any) -> bool:
    return all(array.dtype == mx.float32 for array in arrays)


def _for_all_heads(mask: Any) -> bool:
    """Whether this mask is one that `attend` knows."""
    if mask is None or isinstance(mask, str):
        return mask in (None, "causal")
    for_all = mask.ndim == 2 or (mask.ndim == 4 and mask.shape[1] == 1)
    return for_all and mask.dtype in (mx.bool_, mx.float32)


def _seen(mask: Any) -> Any:
    if mask is None or isinstance(mask, str):
        return mask
    return _view(mask if mask.ndim == 4 else mask[None, None])


def _view(array: Any) -> Any:
    """The same memory as numpy sees it, computed now. Raises ValueError inside mx.compile."""
    return np.asarray(array)
