"""What a model's runtime asks of its prefix cache, and the answer of a model that has none.

The hooks, in the order of a request's life:

1. `await wait(ticket, wish)` before a turn is asked for: no slot is held meanwhile.
2. `expected(wish)` tokens are in cache, for the line's price of the prompt.
3. `planned(request, wish)` when the slot is granted, and the frame it returns is sent without an
   await in between.
4. `take(frame)` for every frame of the worker, before anybody else acts on it.
5. `hold(ticket)` before a running request is asked to yield.
6. `leave(ticket)` for a request that ends without having been submitted.
7. `bound(left)` whenever running rows have come to need more memory, or less.

And of a worker's: `attach` when it is ready, `detach` when it is gone, `tick` now and then,
`flush` before it is ended in peace.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from opta_lmx.backends.frames import Cache, Ready, Submit, ToFront
from opta_lmx.core.principal import Caller
from opta_lmx.core.types import NO_PLACES, Places
from opta_lmx.engine.prefix.tree import pack


class Wish(msgspec.Struct, frozen=True):
    """A prompt that may be found in the cache: its packed ids, and where it may be taken up again.

    `salt` is `salt_of` its caller: nothing is shared between two. `session` names the
    conversation.
    """

    ids: bytes
    places: Places = NO_PLACES
    salt: str = ""
    session: str | None = None


def salt_of(caller: Caller, adapter: str = "") -> str:
    """Whose caches a caller may use: its tenant's, those of one version of an adapter if any."""
    tenant = caller.principal.tenant
    return f"{tenant}\n{adapter}" if adapter else tenant


def wish_for(ids: Sequence[int], places: Places, caller: Caller, *, adapter: str = "") -> Wish:
    """The wish of a caller's prompt for a model with this version of an adapter, or none."""
    return Wish(pack(ids), places, salt_of(caller, adapter), caller.session)


class CacheLevels(msgspec.Struct, frozen=True):
    """Bytes held now, in the worker's memory and in files."""

    memory_bytes: int = 0
    disk_bytes: int = 0


class ModelCache(Protocol):
    """The prefix cache of one model; for the event loop alone. Nothing here raises."""

    @property
    def levels(self) -> CacheLevels:
        """What is held."""
        ...

    def expected(self, wish: Wish) -> int:
        """How many of the prompt's tokens are in memory now."""
        ...

    async def wait(self, ticket: int, wish: Wish) -> None:
        """Return when nothing worth waiting for is under way, or it was waited for long enough."""
        ...

    def planned(self, request: Submit, wish: Wish) -> Submit:
        """The request with what it reuses and keeps; what must go before it has been sent."""
        ...

    def take(self, frame: ToFront) -> None:
        """A frame has come from the worker."""
        ...

    def hold(self, ticket: int) -> bool:
        """True when the state of this request is kept if it is cancelled with `hold`."""
        ...

    def leave(self, ticket: int) -> None:
        """The request is over and was never submitted."""
        ...

    def bound(self, left: int) -> None:
        """Rows leave so many bytes; where states share memory with them, they take no more."""
        ...

    async def attach(self, ready: Ready, send: Callable[[Cache], None]) -> None:
        """A worker is ready; `send` gives it a frame and does not raise."""
        ...

    def detach(self) -> None:
        """The worker is gone, and with it what it held."""
        ...

    def tick(self) -> None:
        """Some time has passed: a second, or less."""
        ...

    async def flush(self, limit_s: float) -> None:
        """Bring to disk what is worth it, for `limit_s` at most."""
        ...


class NoCache:
    """A model whose states cannot be held."""

    levels = CacheLevels()

    def expected(self, wish: Wish) -> int:  # noqa: ARG002  (the protocol's)
        """Nothing is there."""
        return 0

    async def wait(self, ticket: int, wish: Wish) -> None:
        """Nothing is to come."""

    def planned(self, request: Submit, wish: Wish) -> Submit:  # noqa: ARG002  (the protocol's)
        """As it is."""
        return request

    def take(self, frame: ToFront) -> None:
        """Nothing to learn."""

    def hold(self, ticket: int) -> bool:  # noqa: ARG002  (the protocol's)
        """Nothing is kept."""
        return False

    def leave(self, ticket: int) -> None:
        """Nothing was begun."""

    def bound(self, left: int) -> None:
        """Nothing is held."""

    async def attach(self, ready: Ready, send: Callable[[Cache], None]) -> None:
        """Nothing is held."""

    def detach(self) -> None:
        """Nothing is lost."""

    def tick(self) -> None:
        """Nothing to do."""

    async def flush(self, limit_s: float) -> None:
        """Nothing to write."""
