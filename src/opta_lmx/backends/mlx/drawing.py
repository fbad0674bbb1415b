"""What draws a row's tokens: its sampler, and what is done to its logits before."""

from collections.abc import Iterable
from typing import Any

from opta_lmx.backends.mlx.grammar import Follower
from opta_lmx.backends.mlx.lane import Entry
from opta_lmx.backends.mlx.processing import Processor, is_needed
from opta_lmx.backends.mlx.rows import Row, guarded
from opta_lmx.backends.mlx.sampling import Samplers, greedy


class Drawing:
    """Makes samplers and processors that go on where a row's answer stands.

    Args:
        vocabulary: tokens of the model's output.
        ends: tokens that end an answer.
    """

    def __init__(self, vocabulary: int, ends: Iterable[int]) -> None:
        self._samplers = Samplers()
        self._size = vocabulary
        self._ends = [token for token in ends if token < vocabulary]

    def prepare(self, entry: Entry) -> None:
        """Set an entry's sampler and processor. Raises GrammarError."""
        row = entry.row
        sampler = self._samplers.get(row.request.sampling, len(row.answer))
        shared = sampler is greedy or row.request.sampling.seed is None
        # Of a sampler that rows share nobody could tell whose call failed.
        entry.sampler = sampler if shared else guarded(row, sampler, greedy)
        row.processor = self._processor(row)
        if row.processor is not None:
            entry.processor = guarded(row, row.processor, _untouched)

    def _processor(self, row: Row) -> Processor | None:
        if not is_needed(row.request):
            return None
        follower = None
        if row.matcher is not None:
            follower = Follower(row.matcher.deep_copy(), self._size, self._ends)
        return Processor(row.request, self._size, follower, row.answer)


def _untouched(_: Any, logits: Any) -> Any:
    return logits
