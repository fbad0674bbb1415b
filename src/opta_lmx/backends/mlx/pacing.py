"""How much prompt to process per step, so that running streams never pause for too long. Pure.

A step is one decode step for every running row plus one chunk of prompt; its length is the
pause a reader sees between two tokens. Prompts that fit together into one chunk are taken
together; a longer one is taken alone, and short ones may pass beside it.
"""

from collections.abc import Sequence

MAX_CHUNK = 2048
MIN_CHUNK = 16
_GRAIN = 16
"""Chunks are multiples of this, so that few different shapes occur."""
_IDLE_MS = 500.0
"""A chunk's length while nobody decodes: commands are looked at between chunks."""
_FORGET = 0.5
"""Weight of what was measured before, at each new measurement."""


class Pace:
    """Measures what prompt tokens and decode steps cost, and sizes chunks by it."""

    def __init__(self, stall_target_ms: float = 250.0) -> None:
        self.stall_target_ms = stall_target_ms
        self._decode_ms = 0.0
        self._prefill_ms = 0.0
        self._prefill_tokens = 0.0

    @property
    def ms_per_token(self) -> float:
        """Cost of one prompt token; 0 until one was measured."""
        return self._prefill_ms / self._prefill_tokens if self._prefill_tokens else 0.0

    def saw(self, ms: float, decoding: bool, prompt_tokens: int) -> None:
        """Take in a step: its length, whether rows decoded, and prompt tokens with padding."""
        if prompt_tokens:
            decode_ms = self._decode_ms if decoding else 0.0
            self._prefill_ms = self._prefill_ms * _FORGET + max(0.0, ms - decode_ms)
            self._prefill_tokens = self._prefill_tokens * _FORGET + prompt_tokens
        elif decoding:
            self._decode_ms = ms if not self._decode_ms else (self._decode_ms + ms) / 2

    def budget(self, decoding: bool) -> int:
        """Return how many prompt tokens, padding included, the next step may process."""
        if not self._prefill_tokens:
            return MIN_CHUNK
        if decoding:
            free_ms = self.stall_target_ms - self._decode_ms
        else:
            free_ms = max(self.stall_target_ms, _IDLE_MS)
        # A cost of next to nothing is a clock too coarse, not a reason to divide by zero.
        tokens = int(free_ms / max(self.ms_per_token, 1e-6))
        return max(MIN_CHUNK, min(MAX_CHUNK, tokens // _GRAIN * _GRAIN))

    def predicted_s(self, prompt_tokens: int, decoding: bool) -> float:
        """Return how long a step with this much prompt should take, in seconds."""
        return (prompt_tokens * self.ms_per_token + self._decode_ms * decoding) / 1000


def admit(waiting: Sequence[int], running: Sequence[int], budget: int) -> list[int]:
    """Choose which waiting prompts join the prompts in progress.

    Args:
        waiting: prompt lengths in tokens, in order of arrival.
        running: tokens still to do of each prompt in progress.
        budget: tokens of the next chunk, over all prompts.

    Returns:
        Indices into `waiting`, ascending. At most one prompt in progress needs more than one
        chunk, so prompts that fit never wait behind a long one, and a long one never waits
        for more than the long one before it.
    """
    chosen: list[int] = []
    lengths = list(running)
    for index, length in enumerate(waiting):
        share = budget // (len(lengths) + 1)
        if sum(other > share for other in (*lengths, length)) <= 1:
            chosen.append(index)
            lengths.append(length)
    return chosen


def chunk(running: int, budget: int) -> int:
    """Return the tokens each of `running` prompts gets of the next chunk."""
    return max(1, budget // max(1, running))
