"""Wrong keys, counted by the address that shows them."""

import ipaddress
from collections import OrderedDict, deque

from opta_lmx.core.clock import Clock
from opta_lmx.security.addresses import peer_address

MAX_ADDRESSES = 4096
"""Addresses with a count of their own; all further ones share one."""

_UNKNOWN = "unknown"
_Times = deque[float]


class AuthFailures:
    """Tells an address that showed too many wrong keys when to come back.

    An IPv6 address counts as its /64, which one machine may own whole. While the table is full
    nobody is forgotten for a newcomer: who has many addresses cannot make room for a second try.

    Args:
        clock: time.
        limit: wrong keys within the window after which there is a wait; 0: never.
        window_s: seconds that a wrong key counts for.
        max_addresses: bound of the table.
    """

    def __init__(
        self,
        clock: Clock,
        limit: int,
        window_s: float = 60.0,
        *,
        max_addresses: int = MAX_ADDRESSES,
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._window_s = window_s
        self._max_addresses = max_addresses
        # Ordered by the last failure, so that what has run out stands in front.
        self._known: OrderedDict[str, _Times] = OrderedDict()
        self._rest: _Times = deque()

    def __len__(self) -> int:
        """Addresses with a count of their own."""
        return len(self._known)

    def retry_after(self, address: str) -> float | None:
        """Return the seconds until a wrong key of the address counts as one again; None: now."""
        now = self._clock.monotonic()
        times = self._times(_group(address), now)
        if not times or len(times) < self._limit:
            return None
        return times[0] + self._window_s - now

    def failed(self, address: str) -> None:
        """Count a wrong key; one that comes during the wait does not make it longer."""
        if self._limit <= 0:
            return
        now, group = self._clock.monotonic(), _group(address)
        times = self._times(group, now)
        if times is None:
            times = self._known[group] = deque()
        if len(times) < self._limit:
            times.append(now)
            if times is not self._rest:
                self._known.move_to_end(group)

    def _times(self, group: str, now: float) -> _Times | None:
        """When a group failed within the window; None where it may begin a count of its own."""
        self._forget(now)
        times = self._known.get(group)
        if times is None and len(self._known) >= self._max_addresses:
            times = self._rest
        while times and times[0] <= now - self._window_s:
            times.popleft()
        return times

    def _forget(self, now: float) -> None:
        while self._known:
            times = next(iter(self._known.values()))
            if times[-1] > now - self._window_s:
                return
            self._known.popitem(last=False)


def _group(address: str) -> str:
    found = peer_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return f"{int(found) >> 64:x}/64"
    return _UNKNOWN if found is None else str(found)
