"""What refused callers were told: each of them has been promised a place, at a time."""

import math
from operator import attrgetter
from typing import NamedTuple

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.places import NOBODY, First, KeyName, key_of
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

    __slots__ = ("back", "client", "due", "ends", "kept", "key", "path", "places", "since", "times")

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
        self.due = self.back = self.ends = self.kept = now
        """`kept`: from when on its places are kept free."""

    def renew(self, wait_s: float, now: float) -> None:
        """Its caller is told (again) to come back, after so long (s)."""
        self.times += 1
        self.due = now + wait_s
        self.kept = now if self.times >= _OFTEN else self.due - _EARLY_S
        self.back = now + math.ceil(wait_s)
        self.ends = self.due + max(_GRACE_S, _GRACE * wait_s)


_BACK = attrgetter("back")


class Away:
    """When those who were promised places, and come before a caller's turn, are to be back.

    Args:
        every: all their promises.
        of_key: those of the caller's key.
        client: the caller's.
    """

    __slots__ = ("_client", "_every", "_of_key")

    def __init__(self, every: list[Promise], of_key: list[Promise], client: str) -> None:
        self._every = every
        self._of_key = of_key
        self._client = client

    def all_at(self, count: int) -> float:
        """The time at which so many places' callers are back; minus infinity for none."""
        return _back_at(self._every, count)

    def key_at(self, count: int) -> float:
        """The same of those of the caller's key."""
        return _back_at(self._of_key, count)

    def client_at(self) -> float:
        """The time at which all those of the caller's client are back."""
        return max(
            [one.back for one in self._of_key if one.client == self._client], default=-math.inf
        )


def _back_at(promises: list[Promise], count: int) -> float:
    """The time at which whoever was promised the first `count` places is back."""
    back = -math.inf
    for one in sorted(promises, key=_BACK):
        if count <= 0:
            break
        back, count = one.back, count - one.places
    return back


class Before(NamedTuple):
    """What was promised to others before a caller's turn.

    Attributes:
        places: all promised places that come first.
        kept: those of them that are kept free by now.
        client: those that the caller's own client was promised.
        waited_s: seconds since the caller was first refused, where it was too often.
        due: the caller was told to be back by now.
        away: when those others are to be back.
    """

    places: First = NOBODY
    kept: First = NOBODY
    client: int = 0
    waited_s: float = 0.0
    due: bool = False
    away: Away = Away([], [], "")


_NOTHING = Before()


def _sum(promises: list[Promise], of_key: list[Promise], client: str) -> First:
    """Adds up promises: all, and those of them that the client's key was given."""
    key = sum([one.places for one in of_key])
    others = sum([one.places for one in promises]) - key
    return First(key, others, len({one.client for one in of_key} - {client}))


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
        self._keys: dict[KeyName, list[Promise]] = {}
        """The same by key, in the same order."""
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
        every, of_key = self._all, self._keys.get(key_of(caller), [])
        if own is not None:
            every, of_key = every[: every.index(own)], of_key[: of_key.index(own)]
        kept = [one for one in every if one.kept <= now]
        kept_of_key = [one for one in of_key if one.kept <= now]
        return Before(
            _sum(every, of_key, caller.client),
            _sum(kept, kept_of_key, caller.client),
            sum([one.places for one in of_key if one.client == caller.client]),
            now - own.since if own is not None and own.times >= _OFTEN else 0.0,
            own is not None and count <= own.places,
            Away(every, of_key, caller.client),
        )

    def tell(
        self, caller: Caller, places: int, path: tuple[Share, ...], wait_s: float, now: float
    ) -> None:
        """A caller is refused, and told to come back; one that came when told keeps its rank.

        Args:
            caller: who.
            places: how many places it needs.
            path: the counters of its client, as far as there are any.
            wait_s: what it is told (s).
            now: the time (s).
        """
        own = self._due(caller, now)
        if own is None:
            self.add(caller, places, path, wait_s, now)
            return
        own.renew(wait_s, now)
        self._next_end = min(self._next_end, own.ends)

    def add(
        self, caller: Caller, places: int, path: tuple[Share, ...], wait_s: float, now: float
    ) -> None:
        """A caller is told to come back that was not told so before; arguments as for `tell`."""
        self.expire(now)
        if self._full(caller):
            return
        own = Promise(caller, places, path, now)
        own.renew(wait_s, now)
        self._all.append(own)
        self._keys.setdefault(own.key, []).append(own)
        self._count(own, places)
        self._next_end = min(self._next_end, own.ends)

    def redeem(self, caller: Caller, now: float) -> None:
        """A caller has its place: if it is back at its time, its promise is kept."""
        if not self._all:
            return
        own = self._due(caller, now)
        if own is not None:
            self._all.remove(own)
            self._keys[own.key].remove(own)
            if not self._keys[own.key]:
                del self._keys[own.key]
            self._count(own, -own.places)

    def _due(self, caller: Caller, now: float) -> Promise | None:
        """The promise that a caller is back for: of its client's, the one told for this moment.

        Calls of one client have no other names, and most are told their waits in whole seconds.
        """
        self.expire(now)
        of_key, client = self._keys.get(key_of(caller), []), caller.client
        due = [one for one in of_key if one.due <= now and one.client == client]
        return min(due, key=lambda one: abs(one.back - now), default=None)

    def expire(self, now: float) -> None:
        """Forget the promises that nobody came for."""
        if now <= self._next_end:
            return
        for one in self._all:
            if one.ends < now:
                self._count(one, -one.places)
        self._all = [one for one in self._all if one.ends >= now]
        self._keys = {}
        for one in self._all:
            self._keys.setdefault(one.key, []).append(one)
        self._next_end = min((one.ends for one in self._all), default=float("inf"))

    def _full(self, caller: Caller) -> bool:
        """True when nothing more is promised: those of a client are few, however often it asks."""
        if len(self._all) < _MOST_OF_A_CLIENT:
            return False
        of_key = self._keys.get(key_of(caller), [])
        of_client = sum([one.client == caller.client for one in of_key])
        return (
            of_client >= _MOST_OF_A_CLIENT
            or len(of_key) >= _MOST_OF_A_KEY
            or len(self._all) >= _MOST
        )

    def _count(self, promise: Promise, places: int) -> None:
        for share in promise.path:
            left = self._outside.get(share, 0) + places
            if left:
                self._outside[share] = left
            else:
                self._outside.pop(share, None)
