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
_FORGET = 0.8
"""Weight of what was measured before, at each new measurement."""
_SPREAD = 0.1
"""Chunks that differ by less than this part of their mean say nothing about fixed costs."""
_MOST_FIXED = 0.9
_AIM = 0.7
"""The part of the stall target that a step is planned to take."""
_CALM = 0.9
"""What remains of a surprise at the next step: for some ten steps it makes chunks shorter."""
_MOST_SURPRISE = 1.5
_STRETCH = 1.25
"""How far beyond the chunks last measured the line through them is believed."""
_SHRINK = 0.9


class Cost:
    """What a chunk of prompt costs: something fixed, and something for each token.

    Both grow with the tokens before the chunk, so what was measured last weighs most. Without
    the fixed part, a chunk made shorter would look dearer, and the next one be shorter still.
    """

    def __init__(self) -> None:
        self._fixed_share = 0.0
        self._weight = 0.0
        self._tokens = 0.0
        self._ms = 0.0
        self._squares = 0.0
        self._products = 0.0
        self._longest = 0.0

    @property
    def reach(self) -> int:
        """The longest chunk that these costs say something about."""
        return int(self._longest * _STRETCH) + _GRAIN

    @property
    def known(self) -> bool:
        """True once anything was measured."""
        return self._weight > 0

    @property
    def fixed_ms(self) -> float:
        """The part that is the same for any chunk."""
        return self._ms / self._weight * self._fixed_share if self.known else 0.0

    @property
    def ms_per_token(self) -> float:
        """The part of each token; 0 until one was measured."""
        return self._ms * (1 - self._fixed_share) / self._tokens if self.known else 0.0

    def add(self, tokens: int, ms: float) -> None:
        """Take in a chunk: a line through the mean of what was seen, its slope by least squares."""
        self._longest = max(tokens, self._longest * _SHRINK)
        self._weight = self._weight * _FORGET + 1
        self._tokens = self._tokens * _FORGET + tokens
        self._ms = self._ms * _FORGET + ms
        self._squares = self._squares * _FORGET + tokens * tokens
        self._products = self._products * _FORGET + tokens * ms
        mean = self._tokens / self._weight
        variance = self._squares / self._weight - mean * mean
        if self._ms > 0 and variance > (_SPREAD * mean) ** 2:
            slope = (self._products - mean * self._ms) / self._weight / variance
            share = 1 - slope * self._tokens / self._ms
            self._fixed_share = min(_MOST_FIXED, max(0.0, share))


class Pace:
    """Measures what prompt tokens and decode steps cost, and sizes chunks by it."""

    def __init__(self, stall_target_ms: float = 250.0) -> None:
        self.stall_target_ms = stall_target_ms
        self.cost = Cost()
        self._decode_ms = 0.0
        self._surprise = 1.0

    def saw(self, ms: float, decoding: bool, prompt_tokens: int) -> None:
        """Take in a step: its length, whether rows decoded, and prompt tokens with padding."""
        if prompt_tokens:
            if decoding and self.cost.known:
                self._compare(ms, prompt_tokens)
            decode_ms = self._decode_ms if decoding else 0.0
            self.cost.add(prompt_tokens, max(0.0, ms - decode_ms))
        elif decoding:
            self._decode_ms = ms if not self._decode_ms else (self._decode_ms + ms) / 2

    def budget(self, decoding: bool) -> int:
        """Return how many prompt tokens, padding included, the next step may process."""
        if not self.cost.known:
            return MIN_CHUNK
        if decoding:
            # A mean cost would put every second step beyond the target.
            free_ms = self.stall_target_ms * _AIM / self._surprise - self._decode_ms
        else:
            free_ms = max(self.stall_target_ms, _IDLE_MS)
        # A cost of next to nothing is a clock too coarse, not a reason to divide by zero.
        tokens = int((free_ms - self.cost.fixed_ms) / max(self.cost.ms_per_token, 1e-6))
        if decoding:
            tokens = min(tokens, self.cost.reach)
        return max(MIN_CHUNK, min(MAX_CHUNK, tokens // _GRAIN * _GRAIN))

    def _compare(self, ms: float, prompt_tokens: int) -> None:
        """Note by how much a step took longer than it should, if it was long at all."""
        self._surprise = 1 + (self._surprise - 1) * _CALM
        predicted_ms = self.predicted_s(prompt_tokens, decoding=True) * 1000
        if ms > max(predicted_ms, self.stall_target_ms / 2):
            self._surprise = max(self._surprise, min(_MOST_SURPRISE, ms / max(predicted_ms, 1e-6)))

    def predicted_s(self, prompt_tokens: int, decoding: bool) -> float:
        """Return how long a step with this much prompt should take, in seconds."""
        prompt_ms = prompt_tokens and self.cost.fixed_ms + prompt_tokens * self.cost.ms_per_token
        return (prompt_ms + self._decode_ms * decoding) / 1000


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
