"""Who has a place in the line: a bound for all, and places for each key in any case."""

from itertools import repeat
from typing import NamedTuple

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.rules import LineRules


class Tally:
    """What a client, or a key as a whole, has in the line.

    `waiting` counts who has not run yet: somebody paused keeps no newcomer out.
    """

    __slots__ = ("owner", "running", "tickets", "waiting")

    def __init__(self, owner: "Tally | None" = None) -> None:
        self.owner = owner
        self.waiting = 0
        self.running = 0
        self.tickets = 0

    @property
    def paused(self) -> int:
        """Tickets that have run and wait again."""
        return self.tickets - self.waiting - self.running

    def add(self, *, tickets: int = 0, waiting: int = 0, running: int = 0) -> None:
        """Change the counts, the owner's too."""
        tally: Tally | None = self
        while tally is not None:
            tally.tickets += tickets
            tally.waiting += waiting
            tally.running += running
            tally = tally.owner


KeyName = tuple[str, str]


def key_of(caller: Caller) -> KeyName:
    """The key behind a request, by tenant and name."""
    return caller.principal.tenant, caller.principal.key


_OVERDRAFT = 4
"""This part of the shared places may be filled once more for promises that are due."""


class First(NamedTuple):
    """Places that were promised to others.

    Attributes:
        key: of the same key.
        others: of other keys.
        clients: other clients of the key that were promised any: each has one place in any case.
    """

    key: int
    others: int
    clients: int


NOBODY = First(0, 0, 0)


class Lack(NamedTuple):
    """Tickets that must leave their places before there is room; none where it is not positive.

    Attributes:
        shared: of all keys, for a shared place.
        part: of the key, for a place of the key's part.
        own: of the key, for a place that a client with nothing waiting has.
    """

    shared: int
    part: int
    own: int


class Places:
    """Counts by key and client; both are forgotten when they have no ticket left."""

    def __init__(self, rules: LineRules) -> None:
        self._rules = rules
        self._keys: dict[KeyName, Tally] = {}
        self._clients: dict[tuple[KeyName, str], Tally] = {}
        self._first: KeyName | None = None
        self.several_keys = rules.several_keys
        """More than one key has asked, or may."""
        self.waiting = 0
        """Tickets that have not run yet."""

    def client(self, caller: Caller) -> Tally:
        """The counts of a caller's client; new ones when it has no ticket."""
        key = key_of(caller)
        known = self._clients.get((key, caller.client))
        return known or Tally(self._keys.get(key) or Tally())

    def has_room(
        self,
        caller: Caller,
        count: int,
        slots: int,
        running: int,
        *,
        kept: First = NOBODY,
        due: bool = False,
    ) -> bool:
        """True when `count` more tickets of this caller may wait, and `kept` places stay free.

        They may while the shared places last. Beyond them each key has its part of as many, and a
        client with nothing waiting has a place while its key has not filled its own. Where slots
        are free for them at once they may in any case. Who was promised a place that is `due` by
        now has it even a little beyond all that: the estimate was wrong, not the caller.
        """
        extra = -(-self._rules.max_waiting // _OVERDRAFT) if due else 0
        if self.waiting + count <= slots - running:
            return True
        lack = self.lack(caller, count, slots, running, kept)
        if lack.shared <= extra:
            return True
        if count > slots + self._rules.max_waiting:
            return False
        return lack.part <= extra or (lack.own <= extra and self.client(caller).waiting == 0)

    def lack(self, caller: Caller, count: int, slots: int, running: int, first: First) -> Lack:
        """What must happen before `count` more tickets of this caller have room.

        Args:
            caller: whose tickets.
            count: how many.
            slots: how many there are.
            running: how many of them are held.
            first: places that others have first.
        """
        owner = self.client(caller).owner
        assert owner is not None
        shared, of_key = self._rules.max_waiting, owner.waiting + first.key
        part = of_key + count - self._part(caller)
        return Lack(
            self.waiting + first.key + first.others + count - max(0, slots - running) - shared,
            # However many answers a call wants, it has room where nothing else of its key waits.
            min(part, of_key),
            owner.waiting + first.clients + count - self._rules.places_of_a_key(),
        )

    def refilled(self, caller: Caller) -> int:
        """Waiting tickets of other keys whose places are their keys' own: no shared ones."""
        owner, part = self.client(caller).owner, self._part(caller)
        waiting = [one.waiting for one in self._keys.values() if one is not owner]
        return sum(map(min, waiting, repeat(part)))

    def _part(self, caller: Caller) -> int:
        """Of the shared places, those that are each key's own, this caller's among them."""
        keys = len(self._keys) + (key_of(caller) not in self._keys)
        return max(1, self._rules.max_waiting // keys)

    def enter(self, caller: Caller, count: int) -> Tally:
        """Take the places; return the counts that the tickets carry on."""
        key = key_of(caller)
        self._first = self._first or key
        self.several_keys = self.several_keys or key != self._first
        owner = self._keys.setdefault(key, Tally())
        client = self._clients.setdefault((key, caller.client), Tally(owner))
        client.add(tickets=count, waiting=count)
        self.waiting += count
        return client

    def start(self, tally: Tally, *, first: bool) -> None:
        """A ticket was granted a slot; the first time, it leaves its place."""
        tally.add(running=1, waiting=-first)
        self.waiting -= first

    def stop(self, tally: Tally) -> None:
        """A ticket holds its slot no longer."""
        tally.add(running=-1)

    def forget(self, caller: Caller, tally: Tally, *, waiting: bool) -> None:
        """A ticket is gone."""
        tally.add(tickets=-1, waiting=-waiting)
        self.waiting -= waiting
        key, owner = key_of(caller), tally.owner
        if not tally.tickets:
            self._clients.pop((key, caller.client), None)
        if owner is not None and not owner.tickets:
            self._keys.pop(key, None)
