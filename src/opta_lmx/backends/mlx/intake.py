"""Requests that are not in the generator: their grammar compiles, or they wait for room."""

from collections.abc import Sequence

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.mlx.grammar import Compiled, Grammars
from opta_lmx.backends.mlx.pacing import admit
from opta_lmx.backends.mlx.rows import Row
from opta_lmx.backends.mlx.states import States


class Intake:
    """Waiting rows, the oldest first.

    Args:
        grammars: compiles.
        states: what rows may have to wait for.
    """

    def __init__(self, grammars: Grammars, states: States) -> None:
        self._grammars = grammars
        self._states = states
        self._compiling: dict[int, Row] = {}
        self._waiting: list[Row] = []

    def __len__(self) -> int:
        return len(self._compiling) + len(self._waiting)

    def __contains__(self, request: int) -> bool:
        return request in self._compiling or any(row.id == request for row in self._waiting)

    @property
    def compiling(self) -> bool:
        """True while a grammar is compiled for somebody."""
        return bool(self._compiling)

    @property
    def can_start(self) -> bool:
        """True when a waiting row needs nothing but room."""
        return bool(self._waiting) and bool(self._able(()))

    def add(self, request: Submit) -> None:
        """Take in a new request."""
        row = Row(request)
        # Only what was expected before: so no two can wait for each other.
        row.waits = request.reuse is not None and self._states.expects(request.reuse.handle)
        self._states.expect(row.handles)
        self._states.want(request.reuse)
        if request.grammar:
            self._compiling[row.id] = row
            self._grammars.ask(row.id, request.grammar)
        else:
            self._waiting.append(row)

    def bring_back(self, rows: Sequence[Row]) -> None:
        """Rows that have to start again go before all others."""
        self._waiting[:0] = rows

    def withdraw(self, request: int) -> Row | None:
        """Take out a request that has not started."""
        row = self._compiling.pop(request, None)
        if row is not None:
            self._grammars.forget(request)
        else:
            row = next((other for other in self._waiting if other.id == request), None)
            if row is None:
                return None
            self._waiting.remove(row)
        self.settle(row)
        return row

    def settle(self, row: Row) -> None:
        """The row has taken what it wanted of the held states, or wants it no more."""
        if not row.announced:
            self._states.unwant(row.request.reuse)

    def compiled(self, wait_s: float) -> list[Compiled]:
        """Let rows go on whose grammars are done; return all results."""
        done = self._grammars.take(wait_s)
        for made in done:
            row = self._compiling.get(made.request)
            if row is not None and not made.error:
                del self._compiling[made.request]
                row.matcher = made.matcher
                self._waiting.append(row)
        return done

    def choose(self, running: Sequence[Row], budget: int) -> list[Row]:
        """Take out the rows that are to join those `running` for the next chunk of `budget`."""
        able = self._able(running)
        left = [row.left for row in running if row.left]
        lengths = [self._length(row) for row in able]
        chosen = [able[at] for at in admit(lengths, left, budget)]
        names = {row.id for row in chosen}
        self._waiting = [row for row in self._waiting if row.id not in names]
        return chosen

    def _able(self, running: Sequence[Row]) -> list[Row]:
        """Rows that may start: what they reuse cannot come any more, and one suspect at a time."""
        able: list[Row] = []
        suspected = any(row.on_trial for row in running)
        for row in self._waiting:
            if row.on_trial and suspected:
                continue
            if row.waits and self._states.expects(row.sources[0].handle):
                continue
            suspected = suspected or row.on_trial
            able.append(row)
        return able

    def _length(self, row: Row) -> int:
        """Tokens to process before the one that makes the next."""
        length = len(row.request.ids) + len(row.answer)
        cached = self._states.promises(row.sources[-1], length) if row.sources else 0
        return length - 1 - cached
