"""What refused callers were told: each of them has been promised a place, at a time."""

import math
from typing import NamedTuple

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.places import NOBODY, First, key_of
from opta_lmx.scheduling.shares import Share

_EARLY_S = 1.0
"""Seconds before its time from which a promised place is kept free."""
_GRACE_S = 2.0
_GRACE = 0.1
"""A place is kept for so long after its time (s, or this part of the wait, whichever is more)."""
_OFTEN = 4
"""Refusals after which a caller's place is kept from then on, and estimates are believed less."""
_MOST_OF_A_CLIENT = 64
_MOST_OF_A_KEY = 128
_MOST = 1024


class Promise:
    """Places that a client was told to come back for; times in seconds."""

    __slots__ = ("back", "client", "due", "ends", "key", "path", "places", "since", "times")

    def __init__(self, caller: Caller, places: int, path: tuple[Share, ...], now: float) -> None:
        self.key = key_of(caller)
        self.client = caller.client
        self.places = places
        self.path = path
        """The counters that its service is likely to be counted by."""
        self.since = now
        """When it was first refused."""
        self.times = 0
        """How often it was."""
        self.due = self.back = self.ends = now


class Before(NamedTuple):
    """What was promised to others before a caller's turn.

    Attributes:
        places: all promised places that come first.
        kept: those of them that are kept free by now.
        client: those that the caller's own client was promised.
        waited_s: seconds since the caller was first refused, where it was too often.
        due: the caller was told to be back by now.
    """

    places: First = NOBODY
    kept: First = NOBODY
    client: int = 0
    waited_s: float = 0.0
    due: bool = False


_NOTHING = Before()


class _Sum:
    """Adds up promises."""

    def __init__(self) -> None:
        self._key = self._others = 0
        self._clients: set[str] = set()

    def add(self, one: Promise, *, mine: bool, same: bool) -> None:
        """Count a promise: of the caller's own key, and of its own client?"""
        if not mine:
            self._others += one.places
            return
        self._key += one.places
        if not same:
            self._clients.add(one.client)

    @property
    def first(self) -> First:
        """All of them."""
        return First(self._key, self._others, len(self._clients))


class Promises:
    """Promises in the order in which callers were first refused.

    A caller that comes back at its time and is refused again keeps its rank; one that does not
    come back loses it. Beyond 128 of a key, or 1,024 in all, nothing more is promised.

    Args:
        outside: kept up to date: how many requests are to come back, by counter.
    """

    def __init__(self, outside: dict[Share, int]) -> None:
        self._outside = outside
        self._all: list[Promise] = []
        self._next_end = float("inf")

    def __len__(self) -> int:
        return len(self._all)

    def before(self, caller: Caller, now: float, count: int = 1) -> Before:
        """What others were promised before this caller; for a newcomer, everything.

        `count`: places it needs; for more than it was promised nothing is due.
        """
        if not self._all:
            return _NOTHING
        own = self._due(caller, now)
        key, kept_from = key_of(caller), now + _EARLY_S
        places, kept = _Sum(), _Sum()
        of_client = 0
        for one in self._all:
            if one is own:
                break
            mine = one.key == key
            same = mine and one.client == caller.client
            of_client += one.places if same else 0
            places.add(one, mine=mine, same=same)
            if one.due <= kept_from or one.times >= _OFTEN:
                kept.add(one, mine=mine, same=same)
        return Before(
            places.first,
            kept.first,
            of_client,
            now - own.since if own is not None and own.times >= _OFTEN else 0.0,
            own is not None and count <= own.places,
        )

    def tell(
        self, caller: Caller, places: int, path: tuple[Share, ...], wait_s: float, now: float
    ) -> None:
        """A caller is refused, and told to come back.

        Args:
            caller: who.
            places: how many places it needs.
            path: the counters of its client, as far as there are any.
            wait_s: what it is told (s).
            now: the time (s).
        """
        own = self._due(caller, now)
        if own is None:
            if self._full(caller):
                return
            own = Promise(caller, places, path, now)
            self._all.append(own)
            self._count(own, places)
        own.times += 1
        own.due = now + wait_s
        own.back = now + math.ceil(wait_s)
        own.ends = own.due + max(_GRACE_S, _GRACE * wait_s)
        self._next_end = min(self._next_end, own.ends)

    def redeem(self, caller: Caller, now: float) -> None:
        """A caller has its place: if it is back at its time, its promise is kept."""
        if not self._all:
            return
        own = self._due(caller, now)
        if own is not None:
            self._all.remove(own)
            self._count(own, -own.places)

    def _due(self, caller: Caller, now: float) -> Promise | None:
        """The promise that a caller is back for: of its client's, the one told for this moment.

        Calls of one client have no other names, and most are told their waits in whole seconds.
        """
        self.expire(now)
        due = (one for one in self._all if one.due <= now and _is_of(one, caller))
        return min(due, key=lambda one: abs(one.back - now), default=None)

    def expire(self, now: float) -> None:
        """Forget the promises that nobody came for."""
        if now <= self._next_end:
            return
        for one in self._all:
            if one.ends < now:
                self._count(one, -one.places)
        self._all = [one for one in self._all if one.ends >= now]
        self._next_end = min((one.ends for one in self._all), default=float("inf"))

    def _full(self, caller: Caller) -> bool:
        """True when nothing more is promised: those of a client are few, however often it asks."""
        if len(self._all) < _MOST_OF_A_CLIENT:
            return False
        key = key_of(caller)
        of_key = sum(one.key == key for one in self._all)
        of_client = sum(_is_of(one, caller) for one in self._all)
        return of_client >= _MOST_OF_A_CLIENT or of_key >= _MOST_OF_A_KEY or len(self._all) >= _MOST

    def _count(self, promise: Promise, places: int) -> None:
        for share in promise.path:
            left = self._outside.get(share, 0) + places
            if left:
                self._outside[share] = left
            else:
                self._outside.pop(share, None)


def _is_of(promise: Promise, caller: Caller) -> bool:
    return promise.client == caller.client and promise.key == key_of(caller)
