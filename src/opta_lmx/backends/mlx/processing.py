"""What is done to a row's logits before its token is drawn: bias, penalties, grammar.

Penalties and biases stay on the device, so the next step is under way before the last token is
known. A grammar needs the token, and then the whole batch waits for it. Nothing here may raise:
an exception inside a step corrupts mlx-lm's batch. A row that fails ends at once instead.
"""
# pyright: reportUnknownMemberType=false
# (mlx stubs leave some parameters bare)

from collections import deque
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.mlx.grammar import Follower
from opta_lmx.core.types import SamplingParams


def is_needed(request: Submit) -> bool:
    """Whether this request's logits are touched at all."""
    return bool(request.grammar or request.logit_bias or penalizes(request.sampling))


def penalizes(sampling: SamplingParams) -> bool:
    """Whether any penalty is asked for."""
    return (
        bool(sampling.frequency_penalty)
        or bool(sampling.presence_penalty)
        or (sampling.repetition_penalty or 1.0) != 1.0
    )


class Penalties:
    """Counts a row's tokens on the device and makes repeating them less likely."""

    def __init__(self, request: Submit, size: int, answer: Sequence[int] = ()) -> None:
        """`answer` is the part of the answer that is there already; `size` the vocabulary's."""
        sampling = request.sampling
        self._frequency = sampling.frequency_penalty or 0.0
        self._presence = sampling.presence_penalty or 0.0
        self._repetition = sampling.repetition_penalty or 1.0
        if self._repetition != 1.0:
            seen: Any = np.zeros(size, dtype=np.bool_)
            seen[np.array(request.ids)] = True
            self._prompt = mx.array(seen)
        counts: Any = np.bincount(np.array(answer, dtype=np.int64), minlength=size)
        self._counts = mx.array(counts.astype(np.float32))

    def take(self, token: Any) -> None:
        """Count a token of the answer, given as an array of one, perhaps not computed yet."""
        self._counts = self._counts.at[token].add(1.0)

    def apply(self, logits: Any) -> Any:
        """Return the logits [1, vocabulary] with penalties taken off."""
        answered = self._counts > 0
        if self._repetition != 1.0:
            lowered = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
            logits = mx.where(mx.logical_or(answered, self._prompt), lowered, logits)
        if self._frequency:
            logits = logits - self._frequency * self._counts
        if self._presence:
            logits = logits - self._presence * answered
        return logits


class Processor:
    """One row's; called by mlx-lm with all its tokens and the logits of the next.

    Args:
        request: says what is to be done.
        size: tokens of the model's output.
        follower: of the grammar, at its beginning.
        answer: the part of the answer that is there already. A grammar it does not fit raises
            GrammarError.

    Attributes:
        failed: why the row must end, once its grammar broke off.
    """

    def __init__(
        self, request: Submit, size: int, follower: Follower | None, answer: Sequence[int] = ()
    ) -> None:
        self.failed = ""
        self._size = size
        self._started = False
        self._follower = follower
        penalized = penalizes(request.sampling)
        self._penalties = Penalties(request, size, answer) if penalized else None
        self._bias = _bias(request, size) if request.logit_bias else None
        self._keep = request.top_logprobs is not None
        self._own: deque[Any] = deque()
        if follower is not None:
            for token in answer:
                follower.take(token)

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Return the logits [1, vocabulary] to draw from."""
        if self._keep:
            self._own.append(logits)
        logits = logits.astype(mx.float32)
        last = tokens[-1:] if self._started else None
        self._started = True
        if self._bias is not None:
            logits = logits + self._bias
        if self._penalties is not None:
            if last is not None:
                self._penalties.take(last)
            logits = self._penalties.apply(logits)
        if self._follower is not None:
            logits = mx.where(self._mask(self._follower, last), logits, -mx.inf)
        return logits

    def logits(self) -> Any:
        """The model's own logits [vocabulary] for the oldest token not asked for."""
        return self._own.popleft()[0]

    def _mask(self, follower: Follower, last: Any) -> Any:
        if not self.failed:
            try:
                if last is not None:
                    follower.take(int(last.item()))
                return unpack(follower.allowed(), self._size)
            except Exception as error:  # noqa: BLE001  (boundary: see the module's words)
                self.failed = str(error) or type(error).__name__
        return unpack(follower.ends(), self._size)


def unpack(bits: Any, size: int) -> Any:
    """Return bits of 32-bit words as an array of booleans on the device."""
    if mx.default_device().type == mx.DeviceType.cpu:
        # Thirty times faster there than the same with MLX's operations.
        flat: Any = np.unpackbits(bits.view(np.uint8), bitorder="little", count=size)
        return mx.array(flat.view(np.bool_))
    return unpack_on_device(mx.array(bits), size)


def unpack_on_device(words: Any, size: int) -> Any:
    """The same for words on the device: an eighth of the bytes to move."""
    shifted = words[:, None] >> mx.arange(32, dtype=mx.uint32)
    return (shifted & 1).reshape(-1)[:size] != 0


def _bias(request: Submit, size: int) -> Any:
    dense: Any = np.zeros(size, dtype=np.float32)
    for token, bias in request.logit_bias:
        dense[token] += bias
    return mx.array(dense)
