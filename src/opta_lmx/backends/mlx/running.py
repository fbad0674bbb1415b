"""The rows in mlx-lm's generators: a lane for each adapter, and for rows too long for one."""
# pyright: reportUnknownMemberType=false
# (mlx-lm is untyped)

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.generate import BatchGenerator  # pyright: ignore[reportMissingTypeStubs]

from opta_lmx.backends.mlx.adapters import Adapters
from opta_lmx.backends.mlx.buckets import choose, padding
from opta_lmx.backends.mlx.caches import Caches, form
from opta_lmx.backends.mlx.decoding import Decoding
from opta_lmx.backends.mlx.lane import Entry, Lane
from opta_lmx.backends.mlx.memory import probe, wired_as_before
from opta_lmx.backends.mlx.pacing import MAX_CHUNK
from opta_lmx.backends.mlx.rows import Row


class Width(NamedTuple):
    """How far rows of one lane may differ in length.

    Attributes:
        at: bytes of the caches of a row of so many tokens.
        spare: bytes that all padding together may take.
    """

    at: Callable[[int], int]
    spare: int


class Advance(NamedTuple):
    """What came of one step: prompts in progress, tokens drawn, and the lanes that failed."""

    progress: list[tuple[Row, Any]]
    responses: list[tuple[Row, Any]]
    failures: list[tuple[Lane, Exception]]


class Running:
    """All rows that were given to mlx-lm, stepped lane by lane.

    Args:
        model: an evaluated mlx-lm model.
        ends: tokens that end an answer.
        slots: rows at once.
        width: what a lane may hold.
        adapters: of the model; lanes take turns with them.
    """

    def __init__(
        self, model: Any, ends: Iterable[int], slots: int, width: Width, adapters: Adapters
    ) -> None:
        self._model = model
        self._adapters = adapters
        self._ends = [[token] for token in sorted(ends)]
        self._slots = slots
        self._width = width
        self._lanes = [Lane(self._new())]
        self._by_request: dict[int, tuple[Row, Lane]] = {}

    def __len__(self) -> int:
        return len(self._by_request)

    @property
    def form(self) -> str:
        """`caches.form` of the model's states."""
        return form(probe(self._model))

    @property
    def rows(self) -> list[Row]:
        """All of them, in the order they entered."""
        return [row for row, _ in self._by_request.values()]

    @property
    def nbytes(self) -> int:
        """Bytes of the caches, padding included."""
        return sum(lane.nbytes for lane in self._lanes)

    def find(self, request: int) -> Row | None:
        """The row of a request."""
        return self._by_request.get(request, (None,))[0]

    def enter(self, entries: Sequence[Entry]) -> None:
        """Put rows into lanes; their prompts begin with the coming step."""
        lengths = [[row.length for row in lane.rows] for lane in self._lanes]
        shares: dict[int, list[Entry]] = {}
        for entry in entries:
            at = self._choose(lengths, entry.row)
            if at == len(self._lanes):
                self._lanes.append(Lane(self._new()))
                lengths.append([])
            if not lengths[at]:
                self._lanes[at].adapter = entry.row.request.adapter
            lengths[at].append(entry.row.length)
            shares.setdefault(at, []).append(entry)
            self._by_request[entry.row.id] = entry.row, self._lanes[at]
        for at, share in shares.items():
            self._lanes[at].enter(share)

    def _choose(self, lengths: Sequence[Sequence[int]], row: Row) -> int:
        """The lane of a new row: an index, of a lane yet to be made where it must be alone."""
        adapter, (at, spare) = row.request.adapter, self._width
        open_to = [n for n, lane in enumerate(self._lanes) if lane.adapter == adapter]
        open_to += [n for n in range(len(lengths)) if n not in open_to and not lengths[n]]
        closed = [held for n, held in enumerate(lengths) if n not in open_to]
        spare -= sum(padding(held, at) for held in closed)
        chosen = choose([lengths[n] for n in open_to], row.length, at, spare)
        return open_to[chosen] if chosen < len(open_to) else len(lengths)

    def planned(self, size: int) -> int:
        """Prompt tokens, padding included, that a chunk of `size` for each prompt comes to."""
        tokens = 0
        for lane in self._lanes:
            running = [row.next_chunk(size) for row in lane.rows if row.left]
            tokens += len(running) * max(running, default=0)
        return tokens

    def next(self, chunk: int) -> Advance:
        """One decode step, and up to `chunk` tokens of each prompt; a lane that fails stands."""
        made = Advance([], [], [])
        for lane in self._lanes:
            if not len(lane):
                continue
            try:
                self._adapters.use(lane.adapter)
                progress, responses = lane.next(chunk)
            except Exception as error:  # noqa: BLE001  (boundary: no row may cost the others theirs)
                made.failures.append((lane, error))
            else:
                made.progress.extend(progress)
                made.responses.extend(responses)
        return made

    def caches_of(self, row: Row) -> tuple[Caches, int]:
        """A copy of a row's caches, not computed yet, and how many tokens they cover.

        None of either where that fails.
        """
        return self._lane(row).caches_of(row)

    def remove(self, row: Row) -> None:
        """Take a row out before its end."""
        self._lane(row).remove(row)
        del self._by_request[row.id]

    def forget(self, row: Row) -> None:
        """The generator has dropped this row itself."""
        self._lane(row).forget(row)
        del self._by_request[row.id]

    def rebuild(self, lane: Lane) -> list[Row]:
        """Begin again with an empty lane after a step that failed; return who was there."""
        rows = lane.rows
        for row in rows:
            del self._by_request[row.id]
        with wired_as_before():
            lane.close()
        self._lanes[self._lanes.index(lane)] = Lane(self._new())
        mx.clear_cache()
        return rows

    def on_stream(self) -> Any:
        """The context in which caches are to be computed."""
        return self._lanes[0].on_stream()

    def _lane(self, row: Row) -> Lane:
        return self._by_request[row.id][1]

    def _new(self) -> Any:
        with wired_as_before():
            made = BatchGenerator(
                self._model,
                stop_tokens=self._ends,
                completion_batch_size=self._slots,
                prefill_batch_size=self._slots,
                prefill_step_size=MAX_CHUNK,
            )
        # Rows join it after their first token; only an empty one may be replaced.
        made._generation_batch = Decoding.empty(self._model, made.sampler)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return made
