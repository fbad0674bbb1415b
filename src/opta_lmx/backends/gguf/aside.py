"""What was put aside of slots: by paused requests, and for those who share a beginning."""

from collections.abc import Collection

from opta_lmx.backends.gguf.slot import Held, Slot, Tokens

COPY_TOKENS = 128
"""From so many tokens on a copy is worth its two exchanges with llama.cpp."""
_MOST_COMMON = 4
"""So many beginnings are kept aside for whoever shares them."""
_COMMON_ROUNDS = 4
"""So long, in rounds of requests, one of them is kept after its last use."""


class Aside:
    """What is aside, oldest first, each under a number of its own.

    Args:
        most: tokens that may stay aside together.
        round_: requests in a round.
    """

    def __init__(self, most: int, round_: int) -> None:
        self._most = most
        self._round = round_
        self._all: dict[int, Slot] = {}
        self._count = 0

    @property
    def all(self) -> Collection[Slot]:
        """All of it."""
        return self._all.values()

    def put(self, holds: Held, used_at: int) -> int | None:
        """Put aside what a paused request left; None where that is too short or too long."""
        if not COPY_TOKENS <= len(holds.tokens) <= self._most:
            return None
        return self._add(holds, used_at).number

    def share(self, holds: Held, now: int) -> tuple[int, Tokens]:
        """Put aside a beginning; return its number, and those forgotten for it."""
        added = self._add(holds, now)
        added.common = True
        *older, _ = (number for number, each in self._all.items() if each.common)
        forgotten: list[int] = []
        for count, number in zip(range(len(older), 0, -1), older, strict=True):
            if count < _MOST_COMMON and self._tokens() <= self._most:
                break
            del self._all[number]
            forgotten.append(number)
        return added.number, tuple(forgotten)

    def lose(self, numbers: Tokens) -> None:
        """Note that these are not there."""
        for number in numbers:
            self._all.pop(number, None)

    def forget(self, tokens: Tokens, tenant: str, now: int) -> Tokens:
        """Forget what these tokens go on from, then the oldest until the rest may stay."""
        left = self._tokens()
        forgotten: list[int] = []
        for key, each in list(self._all.items()):
            if left > self._most or self._is_done(each, tokens, tenant, now):
                left -= len(each.held)
                forgotten.append(key)
                del self._all[key]
        return tuple(forgotten)

    def _is_done(self, aside: Slot, tokens: Tokens, tenant: str, now: int) -> bool:
        """Whether what was put aside has served its purpose once these tokens started."""
        if aside.common:
            return now - aside.used_at > _COMMON_ROUNDS * self._round
        return aside.shared(tokens, tenant) == len(aside.held)

    def _add(self, holds: Held, used_at: int) -> Slot:
        self._count += 1
        added = self._all[self._count] = Slot(self._count, holds, used_at)
        return added

    def _tokens(self) -> int:
        return sum(len(each.held) for each in self._all.values())
