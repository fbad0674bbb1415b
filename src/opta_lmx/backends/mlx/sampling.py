"""Samplers: top-k, then top-p, then min-p, then temperature; repeatable when seeded.

A draw depends only on the seed and the token's index, never on the batch or on global state,
so a seeded request gives the same text alone and among others. Nothing here may raise once a
sampler is made: an exception inside a step corrupts mlx-lm's batch.
"""
# pyright: reportUnknownMemberType=false
# (mlx stubs leave some parameters bare)

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from opta_lmx.core.clock import system_random
from opta_lmx.core.types import DEFAULT_SAMPLING, SamplingParams

Sampler = Callable[[Any], Any]
"""Log-probabilities [rows, vocabulary] to token ids [rows]."""

_NUCLEUS_MOST = 4096
"""Top-p looks for its edge among this many best tokens: sorting a whole vocabulary of 262k takes
a CPU longer than the model does."""
_MASK64 = (1 << 64) - 1
_COLDEST = 1e-5
"""Temperatures below this are greedy: dividing by them would overflow."""


class Filters:
    """The tokens a draw may choose from, and how flat it is. Values beyond range are clamped."""

    def __init__(self, params: SamplingParams) -> None:
        """`params` may leave fields open: ours are the last word."""
        full = params.resolve(DEFAULT_SAMPLING)
        self.temperature = full.temperature or 0.0
        self.top_k = max(0, full.top_k or 0)
        self.top_p = min(1.0, max(0.0, 1.0 if full.top_p is None else full.top_p))
        self.min_p = min(1.0, max(0.0, full.min_p or 0.0))

    @property
    def key(self) -> tuple[float, int, float, float]:
        """Equal for equal filters."""
        return (self.temperature, self.top_k, self.top_p, self.min_p)

    def apply(self, logprobs: Any) -> Any:
        """Return logits to draw from: excluded tokens are minus infinity, the best one is 0."""
        logits = logprobs.astype(mx.float32)
        logits = logits - mx.max(logits, axis=-1, keepdims=True)
        narrow = 0 < self.top_k < logits.shape[-1]
        if narrow or self.top_p < 1.0:
            logits = _keep_above(logits, self._edge(logits, narrow))
        if self.min_p > 0.0:
            logits = _keep_above(logits, math.log(self.min_p))
        return logits * (1.0 / self.temperature)

    def _edge(self, logits: Any, narrow: bool) -> Any:
        """The smallest logit that top-k (where it narrows) and then top-p keep."""
        size = logits.shape[-1]
        count = self.top_k if narrow else size
        if self.top_p == 1.0:
            return mx.min(mx.topk(logits, count), axis=-1, keepdims=True)
        count = min(count, _NUCLEUS_MOST)
        best = mx.topk(logits, count) if count < size else logits
        total = mx.exp(best if narrow else logits).sum(axis=-1, keepdims=True)
        ordered = mx.sort(best, axis=-1)
        above = mx.cumsum(mx.exp(ordered), axis=-1, reverse=True, inclusive=False)
        outside = (above >= self.top_p * total).sum(axis=-1, keepdims=True)
        # With top_p 0 every token is outside; the best one always stays.
        return mx.take_along_axis(ordered, mx.minimum(outside, count - 1), axis=-1)


class Draw:
    """Draws with a key made of a seed and the index of the call, which begins with `index`."""

    def __init__(self, filters: Filters, seed: int, index: int = 0) -> None:
        self._filters = filters
        self._seed = _mix(seed & _MASK64)
        self._index = index

    def __call__(self, logprobs: Any) -> Any:
        """Return one token id per row."""
        key = mx.random.key(_mix(self._seed + self._index))
        self._index += 1
        return mx.random.categorical(self._filters.apply(logprobs), key=key)


def greedy(logprobs: Any) -> Any:
    """Return the likeliest token id of each row."""
    return mx.argmax(logprobs, axis=-1)


class Samplers:
    """Hands out samplers: one shared object per kind, so that mlx-lm can call it once a batch."""

    def __init__(self) -> None:
        self._random = system_random()
        self._shared: dict[tuple[float, int, float, float], Draw] = {}

    def get(self, params: SamplingParams, index: int = 0) -> Sampler:
        """Return the sampler for one request; a seeded request gets one of its own.

        `index` is the place in its answer of the first token to draw.
        """
        filters = Filters(params)
        if filters.temperature < _COLDEST:
            return greedy
        if params.seed is not None:
            return Draw(filters, params.seed, index)
        if filters.key not in self._shared:
            if len(self._shared) > 1000:  # parameters are the callers' choice
                self._shared.clear()
            self._shared[filters.key] = Draw(filters, self._random.getrandbits(64))
        return self._shared[filters.key]


def _keep_above(logits: Any, edge: Any) -> Any:
    return mx.where(logits < edge, -mx.inf, logits)


def _mix(value: int) -> int:
    """One round of splitmix64: spreads neighbouring values over all 64 bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)
