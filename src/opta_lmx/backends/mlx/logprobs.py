"""Log-probabilities of chosen and best tokens, for all rows of a step that ask for them at once."""
# pyright: reportUnknownMemberType=false
# (mlx stubs leave some parameters bare)

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from opta_lmx.core.types import TopLogprob


class Asked(NamedTuple):
    """One row: its logits [vocabulary], the chosen token, and how many best to list.

    The logits may be log-probabilities already.
    """

    logits: Any
    token: int
    top: int


class Answer(NamedTuple):
    """Natural-log probability of the chosen token, and the best tokens, best first."""

    logprob: float
    top: tuple[TopLogprob, ...]


class LogprobReader:
    """Reads rows on a stream of its own, so as not to wait for the step already under way."""

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        """Make it on the engine thread; `piece` gives a token's bytes."""
        self._piece = piece
        self._stream = mx.new_stream(mx.default_device())

    def read(self, asked: Sequence[Asked]) -> list[Answer]:
        """Return an answer per row. The rows must be evaluated already."""
        count = max(row.top for row in asked)
        with mx.stream(self._stream):
            rows = mx.stack([row.logits for row in asked]).astype(mx.float32)
            rows = rows - mx.logsumexp(rows, axis=-1, keepdims=True)
            count = min(count, rows.shape[-1])
            chosen = mx.take_along_axis(rows, mx.array([[row.token] for row in asked]), axis=-1)
            results = [chosen]
            if count:
                best = mx.argpartition(-rows, kth=count - 1, axis=-1)[:, :count]
                results += [best, mx.take_along_axis(rows, best, axis=-1)]
            mx.eval(results)
        values: list[Any] = [result.tolist() for result in results]
        if not count:
            return [Answer(logprob, ()) for (logprob,) in values[0]]
        return [
            Answer(logprob, self._top(ids, found, row.top))
            for row, (logprob,), ids, found in zip(asked, *values, strict=True)
        ]

    def _top(self, ids: Sequence[int], logprobs: Sequence[float], n: int) -> tuple[TopLogprob, ...]:
        """The best `n` of an unordered selection; equals go by token id, to be repeatable."""
        ranked = sorted(zip(ids, logprobs, strict=True), key=lambda pair: (-pair[1], pair[0]))
        return tuple(TopLogprob(i, value, self._piece(i)) for i, value in ranked[:n])
