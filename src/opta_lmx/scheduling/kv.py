"""Room for the caches of running requests: reserved before they run, grown as they go on."""

from collections import OrderedDict, deque
from collections.abc import Collection

import msgspec

from opta_lmx.core.kv_cost import KvCost

FIRST_ANSWER = 512
"""Tokens expected of an answer of a key that has not had enough of them."""
GRAIN = 32
"""Tokens ahead of the answer at which more is reserved."""
_ENOUGH = 8
_REMEMBERED = 64
_MAX_KEYS = 1_000

Owner = tuple[str, str]
"""A key, by tenant and name."""
NOBODY: Owner = ("", "")


class KvDemand(msgspec.Struct, frozen=True):
    """What a request needs, in tokens: its prompt, the answer expected and the longest one."""

    prompt: int
    expected: int
    most: int


class KvLevels(msgspec.Struct, frozen=True):
    """Bytes that caches of rows may take (0: no bound), are reserved for them, and are in use."""

    available: int = 0
    reserved: int = 0
    used: int = 0


class AnswerLengths:
    """How long the answers of each key are: the 95th percentile of the last 64."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[Owner, deque[int]] = OrderedDict()
        self._usual: dict[Owner, int] = {}

    def record(self, owner: Owner, tokens: int) -> None:
        """Add an answer that has ended, whatever ended it."""
        lengths = self._lengths.setdefault(owner, deque(maxlen=_REMEMBERED))
        lengths.append(tokens)
        self._lengths.move_to_end(owner)
        if len(lengths) >= _ENOUGH:
            self._usual[owner] = sorted(lengths)[-(-95 * len(lengths) // 100) - 1]
        if len(self._lengths) > _MAX_KEYS:
            oldest, _ = self._lengths.popitem(last=False)
            self._usual.pop(oldest, None)

    def demand(self, owner: Owner, prompt: int, most: int, produced: int = 0) -> KvDemand:
        """What to reserve for a key's request: never more than it may generate.

        Args:
            owner: the key.
            prompt: its tokens.
            most: tokens the whole answer may have.
            produced: tokens of it that were generated before; they are now processed like a
                prompt. An answer that has outgrown its key's is expected to grow by half.
        """
        left = max(1, most - produced)
        expected = max(1, self._usual.get(owner, FIRST_ANSWER) - produced, produced // 2)
        return KvDemand(prompt + produced, min(left, expected), left)


class _Row(msgspec.Struct):
    """A running request: its prompt, what is reserved for its answer, its owner and its bytes."""

    prompt: int
    answer: int
    most: int
    owner: Owner
    size: int


class Reservations:
    """The cache memory of one model: what runs never takes more than it is given.

    A row alone, or the only one of its key, always runs and grows: `longest` is what bounds it,
    before.

    Args:
        cost: what a row takes.
        budget: bytes for caches of rows, for kept prefixes and for passing peaks together.

    Attributes:
        available: bytes for rows and kept prefixes.
        reserved: bytes reserved for rows.
    """

    def __init__(self, cost: KvCost, budget: int) -> None:
        self.cost = cost
        self.available = max(0, budget - cost.peak)
        self.reserved = 0
        self._rows: dict[int, _Row] = {}
        self._longest: dict[int, int] = {}

    @property
    def left(self) -> int:
        """Bytes that rows do not claim: kept prefixes may have them until they do."""
        return max(0, self.available - self.reserved)

    def size(self, demand: KvDemand) -> int:
        """Bytes that are reserved for a request when it begins."""
        return self.cost.at(demand.prompt + min(demand.expected, demand.most))

    def of(self, rows: Collection[int], owner: Owner | None = None) -> int:
        """Bytes reserved for these rows; of a key's among them."""
        return sum(
            row.size
            for request, row in self._rows.items()
            if request in rows and owner in (None, row.owner)
        )

    def of_key(self, owner: Owner) -> int:
        """Bytes reserved for a key's rows."""
        return self.of(self._rows.keys(), owner)

    def longest(self, cap: int | None = None) -> int:
        """Tokens of the longest request that could ever run, of a key that may have `cap` bytes."""
        size = self.available if cap is None else min(cap, self.available)
        if size not in self._longest:
            self._longest[size] = max(0, self.cost.tokens_in(size))
        return self._longest[size]

    def why(self, prompt: int) -> str:
        """Why a prompt of so many tokens is too long."""
        return (
            f"The caches of {prompt} tokens take {self.cost.at(prompt)} bytes; this model has "
            f"{self.available} bytes for caches."
        )

    def reachable(self, demand: KvDemand, cap: int | None = None) -> KvDemand:
        """The demand without what is only expected but could keep the request out for ever."""
        room = max(1, self.longest(cap) - demand.prompt)
        return msgspec.structs.replace(demand, expected=min(demand.expected, room))

    def fits(self, demand: KvDemand, without: Collection[int] = ()) -> bool:
        """True when the request could run now, were those `without` gone."""
        taken = self.reserved - (self.of(without) if without else 0)
        return not taken or taken + self.size(demand) <= self.available

    def fits_key(
        self, demand: KvDemand, owner: Owner, cap: int, without: Collection[int] = ()
    ) -> bool:
        """True when the key's rows, but for those `without`, leave room below its own cap."""
        taken = self.of_key(owner) - self.of(without, owner)
        return not taken or taken + self.size(demand) <= cap

    def add(self, request: int, demand: KvDemand, owner: Owner = NOBODY) -> int:
        """Reserve for a request that is about to run; tokens of answer that are reserved."""
        answer, size = min(demand.expected, demand.most), self.size(demand)
        self._rows[request] = _Row(demand.prompt, answer, demand.most, owner, size)
        self.reserved += size
        return answer

    def grow(self, request: int, generated: int, cap: int | None = None) -> int:
        """Keep the reservation ahead of an answer of so many tokens, counted since `add`.

        Returns:
            Tokens of answer that are reserved now; 0 when there is no room: someone must give
            way before this row goes on for more than `GRAIN` tokens.
        """
        row = self._rows[request]
        least = min(row.most, generated + GRAIN)
        if row.answer >= least:
            return row.answer
        for answer in (min(row.most, max(least, row.answer + row.answer // 4)), least):
            more = self.cost.at(row.prompt + answer) - row.size
            if self._has(row, more) and not self._above_cap(row, more, cap):
                row.answer, row.size = answer, row.size + more
                self.reserved += more
                return answer
        return 0

    def key_is_full(self, request: int, generated: int, cap: int | None) -> bool:
        """True when it is its key's own cap that keeps a row from growing."""
        row = self._rows[request]
        least = min(row.most, generated + GRAIN)
        return self._above_cap(row, self.cost.at(row.prompt + least) - row.size, cap)

    def release(self, request: int) -> None:
        """The row's memory is free again. Unknown requests are ignored."""
        row = self._rows.pop(request, None)
        if row is not None:
            self.reserved -= row.size

    def _has(self, row: _Row, more: int) -> bool:
        return self.reserved == row.size or self.reserved + more <= self.available

    def _above_cap(self, row: _Row, more: int, cap: int | None) -> bool:
        if cap is None:
            return False
        taken = self.of_key(row.owner)
        return taken != row.size and taken + more > cap
