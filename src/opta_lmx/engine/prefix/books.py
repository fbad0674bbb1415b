"""What one model's index has stored: where it lies, what it takes, and the orders about it."""

from collections.abc import Iterable

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.engine.prefix.entries import Entry
from opta_lmx.engine.prefix.manifest import Manifest
from opta_lmx.engine.prefix.orders import Counts, Orders
from opta_lmx.engine.prefix.rules import CacheRules
from opta_lmx.engine.prefix.shelf import Shelf
from opta_lmx.engine.prefix.tree import Forest, release


class Books:
    """The stored states of one model, by tenant.

    Args:
        rules: budgets and costs.
        clock: now.
        model: the `ModelKey.digest()` that files are made for.
    """

    def __init__(self, rules: CacheRules, clock: Clock, model: str = "") -> None:
        self.rules = rules
        self._clock = clock
        self._shelf = Shelf(rules, clock, model)
        self._trees = Forest()

    @property
    def counts(self) -> Counts:
        """Counters for metrics."""
        return self._shelf.counts

    @property
    def memory_bytes(self) -> int:
        """Bytes of all states in memory."""
        return self._shelf.memory_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of all files."""
        return self._shelf.disk_bytes

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything stored, to look at only."""
        return self._shelf.entries

    def bound(self, size: int) -> None:
        """Hold no more than so many bytes in memory, though the rules may allow more."""
        self._rule(bound_bytes=size)
        self._shelf.make_room(0)

    def take_orders(self) -> Orders:
        """What the worker is to do now; each order is given once, in the order it must go."""
        return self._shelf.outbox.take()

    def spilled(self, handle: int, done: bool = True) -> None:
        """A state has been written to its file, or could not be."""
        self._shelf.spilled(handle, done)

    def settle(self, everything: bool = False) -> None:
        """Call now and then, and with `everything` before the worker ends: writes to disk."""
        self._shelf.settle(everything)

    @property
    def spilling(self) -> bool:
        """True while a state is being written."""
        return self._shelf.spilling

    def learn(
        self, bytes_per_token: int, fixed_bytes: int, prefill_rate: float | None = None
    ) -> None:
        """Put measured costs in the place of guessed ones."""
        rate = prefill_rate or self.rules.prefill_rate
        self._rule(bytes_per_token=bytes_per_token, fixed_bytes=fixed_bytes, prefill_rate=rate)

    def use_disk(self, model: str, disk_bytes: int, manifests: Iterable[Manifest]) -> None:
        """Files can be made for `model` from now on, and these are there."""
        self._shelf.model = model
        self._rule(disk_bytes=disk_bytes)
        self.adopt(manifests)

    def _rule(self, **changes: float) -> None:
        self.rules = self._shelf.rules = msgspec.structs.replace(self.rules, **changes)

    def adopt(self, manifests: Iterable[Manifest]) -> None:
        """Know the files found at start, the newest first; those not wanted are to be deleted."""
        now = self._clock.monotonic()
        for manifest in sorted(manifests, key=lambda one: -one.saved_ms):
            node = self._trees.insert(manifest.ids, manifest.salt, now)
            if not self._shelf.adopt(node, manifest):
                self._shelf.outbox.delete(manifest.name)
                release(node)
