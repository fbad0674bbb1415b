"""What the caches of a running request take: said by the engine, reckoned with by the line."""

from bisect import bisect_left
from typing import Literal

import msgspec

_LARGEST_CONTEXT = 1 << 31

KvType = Literal["f16", "q8_0", "q4_0"]
"""How llama.cpp holds keys and values: as they are, or in blocks of 32 with a scale."""
KV_TYPE_BYTES: dict[str, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of one number of a cache."""


class KvCost(msgspec.Struct, frozen=True, array_like=True):
    """What the caches of one row take, in bytes.

    Args:
        layers: (bytes a token, window in tokens) for each group of layers; a window of 0 keeps
            every token.
        fixed: what a row takes at any length.
        slack: tokens for which memory may be taken before they come.
        peak: what padding and the processing of prompts take on top, whatever the rows.
        whole: the engine takes the room of the longest answer at once.
    """

    layers: tuple[tuple[int, int], ...]
    fixed: int = 0
    slack: int = 0
    peak: int = 0
    whole: bool = False

    def at(self, tokens: int) -> int:
        """Bytes of a row of so many tokens."""
        tokens += self.slack
        return self.fixed + sum(
            each * (min(tokens, window) if window else tokens) for each, window in self.layers
        )

    def tokens_in(self, size: int) -> int:
        """Tokens (below 2^31) of the longest row within `size` bytes; -1: not even an empty one."""
        return bisect_left(range(_LARGEST_CONTEXT), size + 1, key=self.at) - 1
