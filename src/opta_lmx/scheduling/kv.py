"""Room for the caches of running requests: reserved before they run, grown as they go on."""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Sequence

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError

BUCKET_BOUNDS = (2_048, 16_384)
"""Longest rows (tokens) of the length buckets; a last bucket holds what is longer."""
FIRST_ANSWER = 512
"""Tokens expected of an answer of a key that has not had enough of them."""
GRAIN = 32
"""Tokens ahead of the answer at which more is reserved."""
_ENOUGH = 8
_REMEMBERED = 64
_MAX_KEYS = 1_000
_LARGEST_CONTEXT = 1 << 31


class KvCost(msgspec.Struct, frozen=True):
    """What the caches of one row take, in bytes.

    `layers` holds (bytes a token, window in tokens) for each group of layers; a window of 0 keeps
    every token. `fixed` is what a row takes at any length.
    """

    layers: tuple[tuple[int, int], ...]
    fixed: int = 0

    def at(self, tokens: int) -> int:
        """Bytes of a row of so many tokens."""
        return self.fixed + sum(
            each * (min(tokens, window) if window else tokens) for each, window in self.layers
        )

    def tokens_in(self, size: int) -> int:
        """Tokens (below 2^31) of the longest row within `size` bytes; -1: not even an empty one."""
        return bisect_left(range(_LARGEST_CONTEXT), size + 1, key=self.at) - 1


class KvDemand(msgspec.Struct, frozen=True):
    """What a request needs, in tokens: its prompt, the answer expected and the longest one."""

    prompt: int
    expected: int
    most: int


class AnswerLengths:
    """How long the answers of each key are: the 95th percentile of the last 64."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def record(self, owner: tuple[str, str], tokens: int) -> None:
        """Add an answer that has ended, whatever ended it."""
        lengths = self._lengths.setdefault(owner, deque(maxlen=_REMEMBERED))
        lengths.append(tokens)
        self._lengths.move_to_end(owner)
        if len(self._lengths) > _MAX_KEYS:
            self._lengths.popitem(last=False)

    def demand(self, owner: tuple[str, str], prompt: int, max_tokens: int) -> KvDemand:
        """What to reserve for a key's request: never more than it may generate."""
        lengths = self._lengths.get(owner, ())
        expected = FIRST_ANSWER
        if len(lengths) >= _ENOUGH:
            expected = sorted(lengths)[-(-95 * len(lengths) // 100) - 1]
        return KvDemand(prompt, max(1, min(max_tokens, expected)), max_tokens)


class _Row(msgspec.Struct):
    """A running request: tokens reserved for it, of them for the answer, and its bucket."""

    prompt: int
    answer: int
    most: int
    bucket: int

    @property
    def length(self) -> int:
        return self.prompt + self.answer


class Reservations:
    """The cache memory of one model: what runs never takes more than it is given.

    A batch pads its rows to the longest, so a bucket takes rows x longest. A row stays in the
    bucket that it began in, as the worker keeps it in one batch.

    Args:
        cost: what a row takes.
        budget: bytes for caches of rows, for kept prefixes and for passing peaks together.
        peak: bytes left free for what processing a prompt needs on top.
        bounds: longest rows of the buckets, in tokens.

    Attributes:
        capacity: tokens of the longest request that could ever run: alone, with nothing kept.
        kept: bytes that prefixes kept under handles take.
    """

    def __init__(
        self, cost: KvCost, budget: int, peak: int = 0, bounds: Sequence[int] = BUCKET_BOUNDS
    ) -> None:
        self.cost = cost
        self.kept = 0
        self.capacity = max(0, cost.tokens_in(budget - peak))
        self._budget = budget
        self._peak = peak
        self._bounds = tuple(bounds)
        self._rows: dict[int, _Row] = {}
        self._buckets: list[list[int]] = [[] for _ in range(len(self._bounds) + 1)]

    @property
    def reserved(self) -> int:
        """Bytes reserved for rows."""
        return sum(self._bytes(lengths) for lengths in self._buckets)

    @property
    def free(self) -> int:
        """Bytes that nothing has a claim on; below 0 when more is kept than there is room for."""
        return self._budget - self._peak - self.kept - self.reserved

    def keep(self, size: int) -> None:
        """Say how many bytes the prefixes kept under handles take (not those in use by rows)."""
        self.kept = size

    def check(self, prompt: int, param: str) -> int:
        """Return how long an answer to this prompt could ever become, in tokens.

        Raises:
            LmxError: CONTEXT_LENGTH_EXCEEDED, with numbers, when there is no room for one.
        """
        room = self.capacity - prompt
        if room < 1:
            raise LmxError(
                ErrorKind.CONTEXT_LENGTH_EXCEEDED,
                f"The prompt has {prompt} tokens, whose caches take {self.cost.at(prompt + 1)} "
                f"bytes; this model has {max(0, self._budget - self._peak)} bytes for caches: "
                f"room for {self.capacity} tokens, answer included.",
                param=param,
            )
        return room

    def shortage(self, demand: KvDemand) -> int:
        """Bytes that must be freed before the request can run; 0 when it fits.

        Kept prefixes may be dropped for it: whatever is missing beyond `kept` must wait for
        running requests.
        """
        return max(0, self._needs(self._row(demand)) - self.free)

    def fits(self, demand: KvDemand) -> bool:
        """True when the request can run now."""
        return self.shortage(demand) == 0

    def add(self, request: int, demand: KvDemand) -> bool:
        """Reserve for a request that is about to run; False, and nothing done, if it must wait."""
        if not self.fits(demand):
            return False
        self.release(request)
        row = self._rows[request] = self._row(demand)
        insort(self._buckets[row.bucket], row.length)
        return True

    def grow(self, request: int, generated: int) -> bool:
        """Keep the reservation ahead of an answer of so many tokens.

        Returns:
            False when there is no room: someone must give way before this row goes on for more
            than `GRAIN` tokens.
        """
        row = self._rows.get(request)
        if row is None or row.answer >= min(row.most, generated + GRAIN):
            return True
        least = min(row.most, generated + GRAIN)
        generous = min(row.most, max(least, row.answer + row.answer // 4))
        return any(self._extend(row, answer) for answer in (generous, least))

    def release(self, request: int) -> None:
        """The row's memory is free again. Unknown requests are ignored."""
        row = self._rows.pop(request, None)
        if row is not None:
            self._drop(row)

    def clear(self) -> None:
        """The worker is gone, with all rows and everything that was kept."""
        self._rows.clear()
        self.kept = 0
        for lengths in self._buckets:
            lengths.clear()

    def bucket(self, tokens: int) -> int:
        """Number of the bucket in which a row of this length begins, the shortest first."""
        return bisect_left(self._bounds, tokens)

    def _row(self, demand: KvDemand) -> _Row:
        # What is only expected must not keep a request out that could run alone.
        room = max(1, self.capacity - demand.prompt)
        answer = min(demand.expected, demand.most, room)
        return _Row(demand.prompt, answer, demand.most, self.bucket(demand.prompt + answer))

    def _needs(self, row: _Row) -> int:
        """Bytes that one more row adds, padding included."""
        lengths = self._buckets[row.bucket]
        longest = max(row.length, lengths[-1] if lengths else 0)
        return (len(lengths) + 1) * self.cost.at(longest) - self._bytes(lengths)

    def _extend(self, row: _Row, answer: int) -> bool:
        self._drop(row)
        free, before = self.free, row.answer
        row.answer = answer
        fits = self._needs(row) <= free
        if not fits:
            row.answer = before
        insort(self._buckets[row.bucket], row.length)
        return fits

    def _drop(self, row: _Row) -> None:
        lengths = self._buckets[row.bucket]
        del lengths[bisect_left(lengths, row.length)]

    def _bytes(self, lengths: Sequence[int]) -> int:
        return len(lengths) * self.cost.at(lengths[-1]) if lengths else 0
