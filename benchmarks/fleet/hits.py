"""How much of what could have come from the prefix cache did come from it, by exact counts."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.fleet.asking import Asked

_WIDTH = 4
_TEMPLATE_SLACK = 8
"""Tokens at the beginning of a template that even strangers' prompts (a warm-up) share."""


class Prefixes:
    """Token sequences, and the longest beginning that another one shares with any of them.

    Sequences are kept as bytes in order: the longest common beginning with a set of sorted
    strings is the one with a neighbour.
    """

    def __init__(self) -> None:
        self._sorted: list[bytes] = []

    def add(self, ids: Sequence[int]) -> None:
        """Put a sequence in."""
        insort(self._sorted, _pack(ids))

    def shared(self, ids: Sequence[int]) -> int:
        """Tokens at the beginning of `ids` that are also at the beginning of a sequence here."""
        packed = _pack(ids)
        place = bisect_left(self._sorted, packed)
        return _longest(packed, self._sorted[max(0, place - 1) : place + 1])

    def shared_with_others(self, ids: Sequence[int]) -> int:
        """The same for a sequence that is here itself, once of which does not count."""
        packed = _pack(ids)
        place = bisect_left(self._sorted, packed)
        before, after = self._sorted[max(0, place - 1) : place], self._sorted[place + 1 : place + 2]
        return _longest(packed, [*before, *after])


def _longest(packed: bytes, near: list[bytes]) -> int:
    return max((_common(packed, other) for other in near), default=0)


def _pack(ids: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(_WIDTH, "big") for token in ids)


def _common(one: bytes, other: bytes) -> int:
    """Tokens two packed sequences have in common at their beginnings."""
    low, high = 0, min(len(one), len(other)) // _WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        if one[: middle * _WIDTH] == other[: middle * _WIDTH]:
            low = middle
        else:
            high = middle - 1
    return low


class Shared(msgspec.Struct, frozen=True):
    """One answered request: its prompt, what it could have had, and what it says it had (tokens).

    `known` is shared with a request of the same key whose first token had come before this one
    was sent; `possible` with any that was sent before this one's first token came, which is the
    most a truthful server can say. `counted` is the prompt's length by our own count.
    """

    who: str
    prompt: int | None
    counted: int
    known: int
    possible: int
    cached: int


def look(asked: Iterable[Asked], ids: Sequence[Sequence[int]]) -> list[Shared]:
    """What each answered request shared with earlier ones, in the order given.

    Args:
        asked: answered requests.
        ids: their prompts as token ids.
    """
    given = list(asked)
    known, possible = [0] * len(given), [0] * len(given)
    done: dict[str, Prefixes] = {}
    begun = Prefixes()
    moments: list[tuple[float, int, int]] = []
    for number, one in enumerate(given):
        # At one moment: what is sent looks before what speaks is put in.
        moments += [(one.last.sent, 0, number), (one.last.first or one.last.end, 1, number)]
    for _, spoke, number in sorted(moments):
        own = done.setdefault(given[number].key, Prefixes())
        if spoke:
            possible[number] = begun.shared_with_others(ids[number])
            own.add(ids[number])
        else:
            known[number] = own.shared(ids[number])
            begun.add(ids[number])
    rows = zip(given, ids, known, possible, strict=True)
    return [_shared(one, len(prompt), before, most) for one, prompt, before, most in rows]


def _shared(one: Asked, counted: int, known: int, possible: int) -> Shared:
    counts = one.last.counts
    # A hit always leaves one token to compute.
    most = counted - 1
    return Shared(
        who=one.who,
        prompt=counts.prompt,
        counted=counted,
        known=min(known, most),
        possible=min(possible, most),
        cached=counts.cached or 0,
    )


class HitRate(msgspec.Struct, frozen=True):
    """Sums over requests, in tokens.

    `rate` is the part of the shared tokens that came from the cache, at most 1 for each request;
    `of_prompts` the part of all prompt tokens. `miscounted` are requests whose usage counts
    other prompt tokens than there are, `untrue` those that claim more cached tokens than any
    earlier request could have left.
    """

    requests: int
    prompt_tokens: int
    shared_tokens: int
    cached_tokens: int
    rate: float
    of_prompts: float
    miscounted: int
    untrue: int


def hit_rate(found: Iterable[Shared]) -> HitRate:
    """Sum up."""
    rows = list(found)
    prompts = sum(row.counted for row in rows)
    shared = sum(row.known for row in rows)
    cached = sum(row.cached for row in rows)
    fair = sum(min(row.cached, row.known) for row in rows)
    return HitRate(
        requests=len(rows),
        prompt_tokens=prompts,
        shared_tokens=shared,
        cached_tokens=cached,
        rate=fair / shared if shared else float("nan"),
        of_prompts=cached / prompts if prompts else float("nan"),
        miscounted=sum(row.prompt != row.counted for row in rows),
        untrue=sum(row.cached > row.possible + _TEMPLATE_SLACK for row in rows),
    )
