"""Which of the requests that were in a dead worker may have killed it: they are tried one by one.

A request that kills native code takes along whoever runs beside it, and does so again in the next
worker. So of those who go on there, one at a time is on trial, while nobody else begins: should the
worker die once more, it is known who did it, and the others go on after that.
"""

from collections import Counter
from collections.abc import Collection
from enum import Enum

_DEATHS = 2
"""A request that was in so many workers when they died is not tried again."""
_PROOF_TOKENS = 16
"""More of its answer than what was on its way when the worker died: that was survived, then."""


class Verdict(Enum):
    """What the end of a worker says: nothing, no more than the one before, or of a request only.

    A crash that repeats itself with one request is one, and none of the model's where that has
    brought other requests to their end meanwhile.
    """

    OPEN = "open"
    REPEATED = "repeated"
    REQUEST = "request"


class Suspects:
    """Counts, for each request of one model, the workers that died with it."""

    def __init__(self) -> None:
        self._deaths: Counter[int] = Counter()
        self._open: set[int] = set()
        self._said: Counter[int] = Counter()
        self._sound = False

    def outlives(self, ticket: int) -> bool:
        """Count a death of the worker that this request was in; False when it is one too many."""
        self._deaths[ticket] += 1
        return not self.convicted(ticket)

    def died(self, rows: Collection[int]) -> Verdict:
        """Count the death of a worker with these rows, and say what is to be thought of it."""
        verdict = self.verdict(rows)
        if verdict is Verdict.REQUEST:
            self._sound = False  # the next one takes new evidence
        for ticket in self._blamed(rows):
            self._deaths[ticket] += 1
            self._open.add(ticket)
        self._said.clear()
        return verdict

    def verdict(self, rows: Collection[int]) -> Verdict:
        """What is to be thought of a worker that ends with these rows."""
        if not any(self._deaths[ticket] + 1 >= _DEATHS for ticket in self._blamed(rows)):
            return Verdict.OPEN
        return Verdict.REQUEST if self._sound else Verdict.REPEATED

    def convicted(self, ticket: int) -> bool:
        """True for a request that is not tried again."""
        return self._deaths[ticket] >= _DEATHS

    def on_trial(self, rows: Collection[int]) -> bool:
        """True while one of these rows has still to show that it kills nobody."""
        return not self._open.isdisjoint(rows)

    def said(self, ticket: int) -> bool:
        """A row has made a token; True when it is known by that to be innocent."""
        if ticket not in self._open:
            return False
        self._said[ticket] += 1
        if self._said[ticket] < _PROOF_TOKENS:
            return False
        self._open.discard(ticket)
        return True

    def over(self, ticket: int, *, finished: bool) -> None:
        """A request is over; one that has come to its own end speaks for the model."""
        self._sound = self._sound or finished
        self._open.discard(ticket)
        del self._deaths[ticket], self._said[ticket]

    def _blamed(self, rows: Collection[int]) -> Collection[int]:
        """Who may have done it: those on trial, else everybody."""
        return self._open.intersection(rows) or rows
