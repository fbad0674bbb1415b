"""Which refusals get a row of their own: a flood of them must not fill the disk."""

import ipaddress
from collections import Counter

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.security.addresses import peer_address

_MINUTE_S = 60.0
_DAY_S = 86_400.0
_TOLD = 3
_UNKNOWN = "unknown"
_OTHERS = "others"


class Bounds(msgspec.Struct, frozen=True):
    """How many rows there are, for everybody together and for each group; None: as many.

    Attributes:
        per_minute: rows of all.
        per_day: rows of all.
        each_minute: rows of one group.
        each_day: rows of one group.
        groups: how many are told apart; the others are one more.
    """

    per_minute: int | None = None
    per_day: int | None = None
    each_minute: int = 5
    each_day: int | None = None
    groups: int = 1024


STRANGERS = Bounds(per_minute=20, per_day=2000)
"""Of who shows no good key, by address: they are as many as they like."""
OWNERS = Bounds(each_day=200)
"""Of who does, by key: none of them can keep another out of the log."""


class Refusals:
    """Counts refusals; those beyond their bounds are told together.

    Args:
        clock: time.
        bounds: see `Bounds`.
    """

    def __init__(self, clock: Clock, bounds: Bounds) -> None:
        self._clock = clock
        self._bounds = bounds
        self._minute_at = self._day_at = clock.monotonic()
        self._minute: Counter[str] = Counter()
        self._day: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()

    def admit(self, group: str) -> bool:
        """Whether a refusal gets a row; else it is counted, until `take`."""
        self._turn_over()
        group = self._known(group)
        if self._is_full(group):
            self._untold[group] += 1
            return False
        self._minute[group] += 1
        self._day[group] += 1
        return True

    def take(self) -> Counter[str]:
        """The refusals without rows, by group: they count as told, or are to be given back."""
        taken, self._untold = self._untold, Counter()
        return taken

    def give_back(self, counts: Counter[str]) -> None:
        """Count again what could not be told."""
        self._untold += counts

    @property
    def untold(self) -> int:
        """How many have no row, and were not taken."""
        return self._untold.total()

    def _turn_over(self) -> None:
        now = self._clock.monotonic()
        if now - self._minute_at >= _MINUTE_S:
            self._minute_at = now
            self._minute.clear()
        if now - self._day_at >= _DAY_S:
            self._day_at = now
            self._day.clear()

    def _is_full(self, group: str) -> bool:
        asked = self._bounds
        return (
            self._minute[group] >= asked.each_minute
            or _reached(self._day[group], asked.each_day)
            or _reached(self._minute.total(), asked.per_minute)
            or _reached(self._day.total(), asked.per_day)
        )

    def _known(self, group: str) -> str:
        """The group, or where there are too many to tell apart, that of the others."""
        counted = self._minute if self._bounds.each_day is None else self._day
        told_apart = counted.keys() | self._untold.keys()
        return group if group in told_apart or len(told_apart) < self._bounds.groups else _OTHERS


def _reached(count: int, bound: int | None) -> bool:
    return bound is not None and count >= bound


def network_of(address: str) -> str:
    """What counts as one stranger: an address, or the /64 of one of IPv6."""
    found = peer_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
    return _UNKNOWN if found is None else str(found)


def in_words(counts: Counter[str], what: str) -> str:
    """Refusals by group, in words; `what` the groups are (addresses, keys)."""
    most = ", ".join(f"{group}: {count}" for group, count in counts.most_common(_TOLD))
    return f"{counts.total()} more refusals, from {len(counts)} {what} ({most})"
