"""One answer under way, from its first slot to its end, through pauses and restarts."""

from enum import Enum

import msgspec

from opta_lmx.backends.frames import ResumeAbility, Submit
from opta_lmx.core.principal import Caller
from opta_lmx.core.types import NO_PLACES, Places
from opta_lmx.engine.caching import Wish, salt_of, wish_for
from opta_lmx.engine.stream import TokenStream


class Phase(Enum):
    """Where an answer is: in the worker, there but asked to pause, or waiting to go on."""

    RUNNING = "running"
    YIELDING = "yielding"
    WAITING = "waiting"


class Course:
    """What was asked for, and what has come of it.

    Args:
        request: all of it, as it would be without a cache.
        caller: whose it is.
        places: where its prompt may be taken up again.
        adapter: the version of the adapter that it names, if it names one.

    Attributes:
        wish: its prompt for the cache.
        stream: the tokens, for whoever reads them.
        left: nobody reads any more.
    """

    __slots__ = ("_adapter", "_caller", "_places", "left", "phase", "request", "stream", "wish")

    def __init__(
        self, request: Submit, caller: Caller, places: Places = NO_PLACES, adapter: str = ""
    ) -> None:
        self.request = msgspec.structs.replace(request, salt=salt_of(caller, adapter))
        self._caller = caller
        self._places = places
        self._adapter = adapter
        self.wish = wish_for(request.ids, places, caller, adapter=adapter)
        self.stream = TokenStream()
        self.phase = Phase.RUNNING
        self.left = False

    @property
    def ticket(self) -> int:
        """Its place in the model's line."""
        return self.request.id

    @property
    def over(self) -> bool:
        """Nothing more is to come of it, or nobody waits for it."""
        return self.left or self.stream.over

    def rest(self) -> tuple[Submit, Wish]:
        """What is to be submitted now: all of it, or what follows the tokens that have come."""
        if not self.stream.ids:
            return self.request, self.wish
        generated = tuple(self.stream.ids)
        ids = (*self.request.ids, *generated)
        wish = wish_for(ids, self._places, self._caller, adapter=self._adapter)
        return msgspec.structs.replace(self.request, generated=generated), wish

    def survives(self, ability: ResumeAbility) -> bool:
        """True when it can go on in a new worker; without any token yet it just starts over.

        A token the engine could not name (-1) cannot be given back to it.
        """
        ids = self.stream.ids
        return not ids or (min(ids) >= 0 and resumable(self.request, ability))


def resumable(request: Submit, ability: ResumeAbility) -> bool:
    """True when an engine of this ability can go on with a request's answer."""
    if ability == "unseeded":
        return request.sampling.seed is None and request.grammar is None
    return ability == "all"
