"""Whether refused callers of a simulated line were told the truth.

The account of places is the simulation's own. A caller of a key has its place when there is one
after all those of its key that were refused before it; if that is taken by somebody else meanwhile,
when there is one again.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.rules import LineRules

LONGEST_S = 60.0
"""Nobody is told to wait longer: clients would not listen."""


@dataclass(eq=False)
class Refusal:
    """A caller that is to come back: what it was told first, and when there was a place for it."""

    caller: Caller
    told: float
    at: float
    again: int = 0
    opened: float | None = None
    rank: int = 0


class PlacesWatch:
    """Counts who has which place.

    Args:
        rules: the line's.
        slots: what the machine has now.
    """

    def __init__(self, rules: LineRules, slots: int) -> None:
        self.rules = rules
        self.slots = slots
        self.running = 0
        self._waiting: dict[object, int] = defaultdict(int)
        """Who has not run yet: by client of a key, by key, and all (None)."""
        self._tickets: dict[str, int] = defaultdict(int)
        self._refused: dict[str, dict[object, Refusal]] = defaultdict(dict)
        self.errors: list[float] = []
        """Relative errors of what refused callers were told first."""
        self.refusals = self.again = self.given_up = 0
        """Tries that were refused; those of callers that came when told; calls never let in."""
        self.needless: list[str] = []
        self.judged: list[tuple[Caller, float, float, float]] = []
        """Caller, moment, what was told, and the truth (s)."""

    @property
    def away(self) -> int:
        """Callers that were told to come back."""
        return sum(len(refused) for refused in self._refused.values())

    def entered(self, call: object, caller: Caller, now: float) -> None:
        key = caller.principal.key
        refusal = self._refused[key].pop(call, None)
        if refusal is not None:
            self._judge(refusal, now if refusal.opened is None else refusal.opened)
        self._tickets[key] += 1
        for name in (None, key, (key, caller.client)):
            self._waiting[name] += 1

    def left(self, caller: Caller) -> None:
        """A ticket runs for the first time, or is gone before."""
        key = caller.principal.key
        for name in (None, key, (key, caller.client)):
            self._waiting[name] -= 1

    def gone(self, caller: Caller) -> None:
        """A ticket is over."""
        self._tickets[caller.principal.key] -= 1

    def refused(self, call: object, caller: Caller, told: float, now: float, *, last: bool) -> None:
        """A call was refused, for the last time or not."""
        self.refusals += 1
        if self._waiting[None] < self.slots - self.running:
            self.needless.append(f"{caller.client} refused at {now:.2f} though a slot was free")
        refused = self._refused[caller.principal.key]
        refusal = refused.get(call)
        if refusal is None:
            refused[call] = Refusal(caller, told, now, rank=self.refusals)
            return
        self.again += 1
        refusal.again += 1
        refusal.opened = None
        if last:
            self.given_up += 1
            del refused[call]
            self._judge(refusal, now)

    def _judge(self, refusal: Refusal, when: float) -> None:
        truth = min(LONGEST_S, max(1.0, when - refusal.at))
        self.judged.append((refusal.caller, refusal.at, refusal.told, truth))
        if not refusal.told == truth == 1.0:
            self.errors.append(abs(refusal.told - truth) / truth)

    def look(self, now: float) -> None:
        """Note for whom there is a place now."""
        ranks = sorted(one.rank for refused in self._refused.values() for one in refused.values())
        for refused in self._refused.values():
            earlier: set[str] = set()
            for before, refusal in enumerate(refused.values()):
                client, others = refusal.caller.client, bisect_left(ranks, refusal.rank) - before
                if refusal.opened is None and self._room(
                    refusal.caller, before, others, alone=client not in earlier
                ):
                    refusal.opened = now
                earlier.add(client)

    def _room(self, caller: Caller, before: int, others: int, *, alone: bool) -> bool:
        key, shared = caller.principal.key, self.rules.max_waiting
        free = self.slots - self.running
        if self._waiting[None] < free:
            return True
        if self._waiting[None] + before + others < max(0, free) + shared:
            return True
        of_key = self._waiting[key] + before
        keys = sum(1 for name, count in self._tickets.items() if count or name == key)
        if of_key < max(1, shared // keys):
            return True
        alone = alone and not self._waiting[key, caller.client]
        return alone and of_key < self.rules.places_of_a_key()
