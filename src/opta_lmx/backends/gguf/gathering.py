"""Who waits for whom: requests that share a beginning process it once. Pure bookkeeping."""

from typing import NamedTuple

from opta_lmx.backends.gguf.slot import Slot, Tokens, common

GATHER_TOKENS = 256
"""From so many tokens on a request waits for one that is processing the same beginning."""
_LOAD_SHARE = 4
"""What is loaded may cost as much as this part of what is shared, processed."""
_FAR = 2
"""What was processed for a beginning is put aside up to so many times the beginning's length."""


class GatheringLimits(NamedTuple):
    """`tokens` put aside at most for one beginning, and the tokens of llama.cpp's `batch`."""

    tokens: int
    batch: int = 64

    def suits(self, processed: int, shared: int) -> bool:
        """Whether so much may be put aside for those who share so much of it."""
        return shared > 0 and processed <= min(_FAR * shared, self.tokens)


class Gatherings:
    """Who leads, whom others wait for, and who waits.

    Args:
        limits: what is worth it.
    """

    def __init__(self, limits: GatheringLimits) -> None:
        self.limits = limits
        self._leaders: dict[int, bool] = {}
        """Running requests others wait for, and whether the engine was told."""
        self._follows: dict[int, int] = {}
        """Whom a request in line waits for, or did: it does so once."""

    def waits(self, request: int) -> bool | None:
        """Whether a request waits for another; None when it never did."""
        leader = self._follows.get(request)
        return None if leader is None else leader in self._leaders

    def follow(self, request: int, leader: int) -> None:
        """From now on a request waits for another."""
        self._follows[request] = leader
        self._leaders.setdefault(leader, False)

    def leader_of(self, request: int) -> int | None:
        """Whom a request waits for, or did."""
        return self._follows.get(request)

    def leave(self, request: int) -> None:
        """A request waits for nobody any more."""
        self._follows.pop(request, None)

    def over(self, leader: int) -> None:
        """Nobody waits for this one any more."""
        self._leaders.pop(leader, None)

    def untold(self) -> list[int]:
        """Who is to be interrupted and was not named before."""
        found = [request for request, told in self._leaders.items() if not told]
        self._leaders |= dict.fromkeys(found, True)
        return found

    def may_lead(self, leader: int, slot: Slot, tokens: Tokens, held: int) -> bool:
        """Whether what this running request is processing is worth waiting for.

        Args:
            leader: the request.
            slot: where it runs.
            tokens: of the request that would wait.
            held: how many of them are held somewhere already.
        """
        if leader not in self._leaders and (slot.left <= 0 or slot.led):
            return False
        shared = common(slot.prompt, tokens)
        # It is interrupted between two batches; and two may be under way by then.
        processed = max(len(slot.prompt) - slot.left, shared) + 2 * self.limits.batch
        gained = shared - held
        worth = gained >= max(GATHER_TOKENS, shared // _LOAD_SHARE)
        return worth and self.limits.suits(processed, shared)
