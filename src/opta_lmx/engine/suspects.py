"""Which of the requests that were in a dead worker may have killed it: they are tried one by one.

A request that kills native code takes along whoever runs beside it, and does so again in the next
worker. So those who were in a dead one are suspects. In the next, prompts that were being prepared
go first, each of them alone; then the rows, one at a time, each beside none but rows that have
proven themselves there, while nobody else begins or is prepared. Should the worker die once more,
it is known who did it.
"""

from collections import Counter
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from enum import Enum

_PROOF_TOKENS = 16
"""More of its answer than what was on its way when the worker died: that was survived, then."""


class Verdict(Enum):
    """What the end of a worker says: nothing, or of a request only.

    It is a request's doing where that was on trial, and others have come through meanwhile: a
    model with which nothing does is broken itself.
    """

    OPEN = "open"
    REQUEST = "request"


class Suspects:
    """Who is to be tried, of one model, and who is found guilty.

    `rows` are always the requests that hold slots of the worker now.
    """

    def __init__(self) -> None:
        self._rows: set[int] = set()
        self._prompts: set[int] = set()
        self._preparing: set[int] = set()
        self._convicted: set[int] = set()
        self._said: Counter[int] = Counter()
        self._proven: set[int] = set()
        self._sound = False
        self._spent = False

    @property
    def none(self) -> bool:
        """True while nobody is suspected, and all may come and go."""
        return not (self._rows or self._prompts)

    # --- who may begin --------------------------------------------------------

    def on_trial(self, rows: AbstractSet[int]) -> bool:
        """True while one of these rows has still to show that it kills nobody."""
        return not self._rows.isdisjoint(rows)

    def admits(self, ticket: int, rows: AbstractSet[int]) -> bool:
        """True when a row may begin: without suspects anybody, a suspect in proven company."""
        if self._prompts or self.on_trial(rows):
            return False
        return ticket not in self._rows or self._proven_company(rows)

    def admits_prompt(self, ticket: int, rows: AbstractSet[int], upcoming: int | None) -> bool:
        """True when a prompt may be prepared.

        `upcoming` is the row that would begin now: a suspect is not kept from it by newcomers.
        """
        if self.on_trial(rows):
            return False
        if ticket in self._prompts:
            return self._proven_company(rows)
        return not self._prompts and (upcoming is None or upcoming not in self._rows)

    def _proven_company(self, rows: AbstractSet[int]) -> bool:
        return not self._preparing and rows <= self._proven

    # --- what becomes of them -------------------------------------------------

    def begins(self, ticket: int) -> None:
        """A row is handed to the worker: what it says from here on counts."""
        self._proven.discard(ticket)
        del self._said[ticket]

    def said(self, ticket: int) -> bool:
        """A row has made a token; True when that proves it, and others may wait for that."""
        if ticket in self._proven:
            return False
        self._said[ticket] += 1
        if self._said[ticket] < _PROOF_TOKENS:
            return False
        self._proven.add(ticket)
        del self._said[ticket]
        if self.none:
            return False
        if ticket in self._rows:
            self._speak_for_model()
        self._rows.discard(ticket)
        return True

    def over(self, ticket: int, *, finished: bool) -> None:
        """A request is over; one that has come to its own end speaks for the model."""
        if finished:
            self._speak_for_model()
        self._rows.discard(ticket)
        self._proven.discard(ticket)
        self._convicted.discard(ticket)
        del self._said[ticket]

    def prepares(self, ticket: int) -> None:
        """A prompt is handed to the worker."""
        self._preparing.add(ticket)

    def prepared(self, ticket: int) -> None:
        """A prompt is prepared, or given up."""
        for group in (self._preparing, self._prompts, self._convicted):
            group.discard(ticket)

    # --- deaths ---------------------------------------------------------------

    def died(self, rows: Collection[int]) -> Verdict:
        """Take in the death of a worker with these rows, and say what is to be thought of it."""
        verdict, guilty = self.verdict(rows), self._tried(rows)
        if verdict is Verdict.REQUEST:
            self._spent = True
        if not guilty:
            self._sound = self._sound and not self._spent  # new suspects take new evidence
            self._rows.update(rows)
            self._prompts |= self._preparing
        for ticket in guilty:
            self.convict(ticket)
        self.parted()
        return verdict

    def parted(self) -> None:
        """The worker is gone: nothing of what was proven there counts in the next."""
        self._preparing.clear()
        self._said.clear()
        self._proven.clear()

    def verdict(self, rows: Collection[int]) -> Verdict:
        """What is to be thought of a worker that ends with these rows."""
        return Verdict.REQUEST if self._sound and self._tried(rows) else Verdict.OPEN

    def convict(self, ticket: int) -> None:
        """A request is not tried again."""
        self._rows.discard(ticket)
        self._prompts.discard(ticket)
        self._convicted.add(ticket)

    def convicted(self, ticket: int) -> bool:
        """True for a request that is not tried again."""
        return ticket in self._convicted

    def _speak_for_model(self) -> None:
        self._sound, self._spent = True, False

    def _tried(self, rows: Collection[int]) -> set[int]:
        """Who was on trial."""
        return self._rows.intersection(rows) | (self._prompts & self._preparing)
