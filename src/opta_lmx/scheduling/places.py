"""Who has a place in the line: a bound for all, and one place for each in any case."""

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

    def add(self, *, tickets: int = 0, waiting: int = 0, running: int = 0) -> None:
        """Change the counts, the owner's too."""
        tally: Tally | None = self
        while tally is not None:
            tally.tickets += tickets
            tally.waiting += waiting
            tally.running += running
            tally = tally.owner


_Key = tuple[str, str]


def key_of(caller: Caller) -> _Key:
    """The key behind a request, by tenant and name."""
    return caller.principal.tenant, caller.principal.key


class Places:
    """Counts by key and client; both are forgotten when they have no ticket left."""

    def __init__(self, rules: LineRules) -> None:
        self._rules = rules
        self._keys: dict[_Key, Tally] = {}
        self._clients: dict[tuple[_Key, str], Tally] = {}
        self._first: _Key | None = None
        self.several_keys = rules.several_keys
        """More than one key has asked, or may."""
        self.waiting = 0
        """Tickets that have not run yet."""

    def client(self, caller: Caller) -> Tally:
        """The counts of a caller's client; new ones when it has no ticket."""
        key = key_of(caller)
        known = self._clients.get((key, caller.client))
        return known or Tally(self._keys.get(key) or Tally())

    def has_room(self, caller: Caller, count: int, slots: int, running: int) -> bool:
        """True when `count` more tickets of this caller may wait.

        They may while the shared places last. Beyond them, a key with nothing waiting has a
        place, and so has a client of a key that has not filled its own.
        """
        shared = self._rules.max_waiting
        if self.waiting + count <= max(0, slots - running) + shared:
            return True
        if count > slots + shared:
            return False
        client = self.client(caller)
        key = client.owner
        assert key is not None
        if key.waiting == 0:
            return True
        return client.waiting == 0 and key.waiting + count <= self._rules.places_of_a_key()

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
