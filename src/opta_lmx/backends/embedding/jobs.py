"""Embedding requests in progress, and which of their inputs make the next batch. Pure."""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from opta_lmx.backends.embedding.encoder import Encoded, Input, Pair
from opta_lmx.backends.frames import Embed

MAX_ROWS = 64
"""Inputs of one batch at most, however short they are."""


class Job:
    """One request: first its inputs are read in order, then they are encoded, longest first."""

    def __init__(self, request: Embed) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.vectors: list[bytes | None] = [None] * len(request.inputs)
        self._waiting: list[tuple[int, Encoded]] = []
        self._missing = len(request.inputs)

    @property
    def unread(self) -> Input:
        """The next input to read, with the query where there is one."""
        value, query = self.request.inputs[len(self.tokens)], self.request.query
        return Pair(query, value) if query is not None and isinstance(value, str) else value

    @property
    def readable(self) -> bool:
        """True while inputs are still to be read."""
        return len(self.tokens) < len(self.request.inputs)

    @property
    def done(self) -> bool:
        """True when every input has its vector."""
        return self._missing == 0

    @property
    def longest(self) -> int:
        """Tokens of the next input to encode; 0 when none waits."""
        return self._waiting[-1][1].tokens if self._waiting and not self.readable else 0

    def took(self, encoded: Encoded) -> None:
        """Note what the next unread input became."""
        self._waiting.append((len(self.tokens), encoded))
        self.tokens.append(encoded.tokens)
        if not self.readable:
            # Inputs of like length side by side: what pads the shorter ones is computed in vain.
            self._waiting.sort(key=lambda item: item[1].tokens)

    def pop(self) -> tuple[int, Encoded]:
        """Take the longest input that waits, with its place in the request."""
        return self._waiting.pop()

    def finish(self, place: int, vector: bytes) -> None:
        """Keep the vector of the input at `place`."""
        self.vectors[place] = vector
        self._missing -= 1


class Row(msgspec.Struct, frozen=True):
    """One input of a batch: whose it is, its place there, and what to encode."""

    job: Job
    place: int
    encoded: Encoded


class Jobs:
    """Requests in turn: each batch begins with another's inputs, the rest fill what is left."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[int, Job] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, request: Embed) -> Job:
        """Take a request."""
        job = self._jobs[request.id] = Job(request)
        return job

    def drop(self, request: int) -> Job | None:
        """Forget a request; None when it is not here."""
        return self._jobs.pop(request, None)

    def defer(self, job: Job) -> None:
        """Let the others go first next time."""
        self._jobs.move_to_end(job.request.id)

    def batch(self, budget: int) -> list[Row]:
        """Choose inputs so that rows times the longest is within `budget` tokens.

        The first input is taken whatever its length; nothing is chosen when nothing waits.
        """
        rows: list[Row] = []
        longest = 0
        for job in self:
            while len(rows) < MAX_ROWS and job.longest:
                longest = max(longest, job.longest)
                if rows and (len(rows) + 1) * longest > budget:
                    break
                rows.append(Row(job, *job.pop()))
        if rows:
            self.defer(rows[0].job)
        return rows
