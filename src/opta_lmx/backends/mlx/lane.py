"""One of mlx-lm's generators, which is wrapped, and the rows in it."""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

import contextlib
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from opta_lmx.backends.mlx.caches import Caches
from opta_lmx.backends.mlx.cpu.kernels import forwards
from opta_lmx.backends.mlx.rows import Row


class Entry:
    """What a row needs to enter a generator.

    Attributes:
        segments: its tokens to process, cut at checkpoints.
        caches: of the tokens before them; None: there are none.
        before: those tokens.
        most: tokens it may generate.
        sampler: log-probabilities [1, vocabulary] to a token id [1].
        processor: tokens and logits to logits; None: they are left alone.
    """

    __slots__ = ("before", "caches", "most", "processor", "row", "sampler", "segments")

    def __init__(self, row: Row, ids: Sequence[int], caches: Caches | None, most: int) -> None:
        self.row = row
        self.segments = row.segments(ids)
        self.before = list(ids[: row.done])
        self.caches = caches
        self.most = most
        self.sampler: Any = None
        self.processor: Any = None


class Lane:
    """Rows by their generator's names. Nothing waits in its own queue between steps.

    Args:
        generator: a new `BatchGenerator`.

    Attributes:
        adapter: what all of its rows are computed with; changed only while it is empty.
    """

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.adapter = ""
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[Row]:
        """All of them, in the order they entered."""
        return list(self._rows.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the caches, padding included."""
        return int(self._generator.prompt_cache_nbytes)

    def enter(self, entries: Sequence[Entry]) -> None:
        """Put rows in; their prompts begin with the coming step."""
        uids = self._generator.insert_segments(
            [entry.segments for entry in entries],
            max_tokens=[entry.most for entry in entries],
            caches=[entry.caches for entry in entries],
            all_tokens=[entry.before for entry in entries],
            samplers=[entry.sampler for entry in entries],
            logits_processors=[[each.processor] if each.processor else [] for each in entries],
        )
        for entry, uid in zip(entries, uids, strict=True):
            entry.row.uid = uid
            self._rows[uid] = entry.row

    def next(self, chunk: int) -> tuple[list[tuple[Row, Any]], list[tuple[Row, Any]]]:
        """One decode step, and up to `chunk` tokens of each prompt; mlx-lm's responses to both."""
        self._generator.prefill_step_size = chunk
        forwards.begin()
        progress, responses = self._generator.next()
        return self._named(progress), self._named(responses)

    def caches_of(self, row: Row) -> tuple[Caches, int]:
        """A copy of a row's caches, not computed yet, and how many tokens they cover.

        None of either where that fails.
        """
        try:
            with mx.stream(self._generator.stream):
                caches, tokens = self._generator.extract_cache([row.uid])[row.uid]
        except Exception:  # noqa: BLE001  (boundary: a state is worth less than the rows)
            return [], 0
        return caches, len(tokens)

    def remove(self, row: Row) -> None:
        """Take a row out before its end."""
        with mx.stream(self._generator.stream):
            self._generator.remove([row.uid])
        self.forget(row)

    def forget(self, row: Row) -> None:
        """The generator has dropped this row itself."""
        del self._rows[row.uid]

    def close(self) -> None:
        """The generator is not used any more."""
        self._rows.clear()
        with contextlib.suppress(RuntimeError):
            self._generator.close()

    def on_stream(self) -> Any:
        """The context in which caches are to be computed."""
        return mx.stream(self._generator.stream)

    def _named(self, responses: Sequence[Any]) -> list[tuple[Row, Any]]:
        return [(self._rows[response.uid], response) for response in responses]
