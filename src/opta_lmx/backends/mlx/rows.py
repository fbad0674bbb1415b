"""One request on its way through the batch."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from opta_lmx.backends.frames import Keep, Reuse, Submit
from opta_lmx.backends.mlx.processing import Processor

_TRIAL_TOKENS = 2
"""A step draws one token ahead: after two more nothing is left of what failed before."""


class Row:
    """A request, its answer so far, and where it stands in the generator.

    Attributes:
        answer: the answer's tokens that were delivered, here or before.
        matcher: of its grammar, still at the answer's beginning.
        uid: its generator's name for it while it is there.
        total: tokens to process before the next one is drawn; set at each start.
        done: how many of them are.
        keeps: checkpoints still to come, the shortest first.
        sources: held states that it may start from, the longest last.
        doubts: failed steps it took part in since it last went on well.
        failed: why it must end, once something of its own, or its own step, failed.
        announced: the front knows that it has started.
        leaving: it is to be held after one more token.
        waits: what it is to reuse was still to come when it was taken in.
    """

    __slots__ = (
        "_since",
        "announced",
        "answer",
        "done",
        "doubts",
        "failed",
        "keeps",
        "leaving",
        "matcher",
        "processor",
        "request",
        "sources",
        "total",
        "uid",
        "waits",
    )

    def __init__(self, request: Submit) -> None:
        self.request = request
        self.answer = list(request.generated)
        self.matcher: Any = None
        self.processor: Processor | None = None
        self.uid = -1
        self.total = 0
        self.done = 0
        self.keeps: list[Keep] = sorted(request.keep, key=lambda keep: keep.tokens)
        self.sources: list[Reuse] = [] if request.reuse is None else [request.reuse]
        self.doubts = 0
        self.failed = ""
        self.announced = False
        self.leaving = False
        self.waits = False
        self._since = 0

    @property
    def id(self) -> int:
        """The request's."""
        return self.request.id

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and answer so far."""
        return (*self.request.ids, *self.answer)

    @property
    def length(self) -> int:
        """Tokens it has or will have once its prompt is done."""
        return len(self.request.ids) + len(self.answer)

    @property
    def left(self) -> int:
        """Tokens to process before the last one, which makes the next; 0: it decodes."""
        return max(0, self.total - 1 - self.done)

    @property
    def handles(self) -> list[int]:
        """States it is still to provide."""
        ends = [self.request.keep_end] if self.request.keep_end else []
        return [keep.handle for keep in self.keeps] + ends

    @property
    def failure(self) -> str:
        """Why it must end; empty while it need not."""
        return self.failed or (self.processor.failed if self.processor else "")

    @property
    def on_trial(self) -> bool:
        """True while it may be the one that makes steps fail."""
        return self.doubts > 1

    def start(self, cached: int, total: int) -> list[Keep]:
        """Note that it enters the generator; return checkpoints that cannot be made any more."""
        self.done, self.total = cached, total
        self._since = 0
        missed = [keep for keep in self.keeps if keep.tokens <= cached]
        self.keeps = self.keeps[len(missed) :]
        return missed

    def segments(self, ids: Sequence[int]) -> list[list[int]]:
        """The tokens still to process, cut where a checkpoint is to be made."""
        cuts = {keep.tokens for keep in self.keeps if keep.tokens < len(ids)}
        points = [self.done, *sorted(cuts), len(ids)]
        return [list(ids[start:end]) for start, end in pairwise(points)]

    def next_chunk(self, size: int) -> int:
        """How many tokens it takes of the next chunk: none reaches beyond a checkpoint."""
        end = self.total - 1
        if self.keeps:
            end = min(end, self.keeps[0].tokens)
        return min(size, max(0, end - self.done))

    def due(self) -> list[Keep]:
        """Take out the checkpoints that have been reached."""
        due = [keep for keep in self.keeps if keep.tokens == self.done]
        self.keeps = self.keeps[len(due) :]
        return due

    def kept(self, keep: Keep) -> None:
        """Note a checkpoint, to start from it if the row has to start again."""
        self.sources.append(Reuse(keep.handle, keep.tokens))

    def delivered(self, token: int) -> None:
        """Note a token of the answer."""
        self.answer.append(token)
        self._since += 1
        if self._since >= _TRIAL_TOKENS:
            self.doubts = 0


def guarded(
    row: Row, call: Callable[..., Any], otherwise: Callable[..., Any]
) -> Callable[..., Any]:
    """Keep what a row's own function raises out of the step, where it would ruin all rows.

    Args:
        row: fails instead.
        call: called by mlx-lm.
        otherwise: makes a value that nobody will see.
    """

    def guard(*args: Any) -> Any:
        if not row.failed:
            try:
                return call(*args)
            except Exception as error:  # noqa: BLE001  (boundary: see above)
                row.failed = str(error) or type(error).__name__
        return otherwise(*args)

    return guard
