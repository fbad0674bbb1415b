"""The rows in mlx-lm's generator, which is wrapped and never patched."""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator  # pyright: ignore[reportMissingTypeStubs]

from opta_lmx.backends.mlx.caches import Caches
from opta_lmx.backends.mlx.pacing import MAX_CHUNK
from opta_lmx.backends.mlx.rows import Row


class Entry:
    """What a row needs to enter the generator.

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


class Running:
    """Rows by the generator's names. Nothing waits in the generator's own queue between steps.

    Args:
        model: an evaluated mlx-lm model.
        ends: tokens that end an answer.
        slots: rows at once.
    """

    def __init__(self, model: Any, ends: Iterable[int], slots: int) -> None:
        self._model = model
        self._ends = [[token] for token in sorted(ends)]
        self._slots = slots
        self._rows: dict[int, Row] = {}
        self._by_request: dict[int, Row] = {}
        self._generator: Any = self._new()

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

    def find(self, request: int) -> Row | None:
        """The row of a request."""
        return self._by_request.get(request)

    def of(self, response: Any) -> Row:
        """The row that mlx-lm speaks of."""
        return self._rows[response.uid]

    def enter(self, entries: Sequence[Entry]) -> None:
        """Put rows into the generator; their prompts begin with the coming step."""
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
            self._by_request[entry.row.id] = entry.row

    def next(self, chunk: int) -> tuple[list[Any], list[Any]]:
        """One decode step, and up to `chunk` tokens of each prompt; mlx-lm's responses to both."""
        self._generator.prefill_step_size = chunk
        progress, responses = self._generator.next()
        return progress, responses

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
        del self._by_request[row.id]

    def rebuild(self) -> list[Row]:
        """Begin again with an empty generator after a step that failed; return who was there."""
        rows = self.rows
        self._rows.clear()
        self._by_request.clear()
        with contextlib.suppress(RuntimeError):
            self._generator.close()
        self._generator = self._new()
        mx.clear_cache()
        return rows

    def on_stream(self) -> Any:
        """The context in which caches are to be computed."""
        return mx.stream(self._generator.stream)

    def _new(self) -> Any:
        return BatchGenerator(
            self._model,
            stop_tokens=self._ends,
            completion_batch_size=self._slots,
            prefill_batch_size=self._slots,
            prefill_step_size=MAX_CHUNK,
        )
