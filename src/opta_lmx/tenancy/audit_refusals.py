"""Which refusals get a row of their own: a flood of strangers must not fill the disk."""

import ipaddress
from collections import Counter

from opta_lmx.core.clock import Clock
from opta_lmx.security.addresses import peer_address

_MINUTE_S = 60.0
_DAY_S = 86_400.0
_TOLD = 3
_UNKNOWN = "unknown"
_OTHERS = "others"


class Refusals:
    """Counts refusals; those beyond a bound are told together, once their minute is over.

    Args:
        clock: time.
        per_minute: rows in a minute.
        per_address: of those, for one address (an IPv6 /64).
        per_day: rows in a day.
        max_addresses: addresses that are told apart in a minute.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        per_minute: int = 20,
        per_address: int = 5,
        per_day: int = 2000,
        max_addresses: int = 1024,
    ) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._per_address = per_address
        self._per_day = per_day
        self._max_addresses = max_addresses
        self._minute_at = self._day_at = clock.monotonic()
        self._today = 0
        self._written: Counter[str] = Counter()
        self._unwritten: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        """Whether a refusal gets a row; it is counted either way. First ask for `summary`."""
        now = self._clock.monotonic()
        if now - self._day_at >= _DAY_S:
            self._day_at, self._today = now, 0
        group = self._group(address)
        full = self._written.total() >= self._per_minute or self._today >= self._per_day
        if full or self._written[group] >= self._per_address:
            self._unwritten[group] += 1
            return False
        self._written[group] += 1
        self._today += 1
        return True

    def summary(self, *, now: bool = False) -> str | None:
        """What had no rows in a minute that is over (or until now), in words; it is told once."""
        at = self._clock.monotonic()
        if not now and at - self._minute_at < _MINUTE_S:
            return None
        self._minute_at = at
        self._written.clear()
        counts, self._unwritten = self._unwritten, Counter()
        if not counts:
            return None
        most = ", ".join(f"{group}: {count}" for group, count in counts.most_common(_TOLD))
        return f"{counts.total()} more refusals, from {len(counts)} addresses ({most})"

    def _group(self, address: str) -> str:
        found = peer_address(address)
        group = _UNKNOWN if found is None else str(found)
        if isinstance(found, ipaddress.IPv6Address):
            group = str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
        known = group in self._written or group in self._unwritten
        full = len(self._written.keys() | self._unwritten.keys()) >= self._max_addresses
        return group if known or not full else _OTHERS
