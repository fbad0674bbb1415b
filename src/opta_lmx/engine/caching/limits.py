"""How much one model's prefix cache may hold."""

import msgspec

from opta_lmx.backends.frames import Ready
from opta_lmx.engine.prefix import CacheRules

_SHARE = 0.5
"""Of the memory that the worker has for caches: the rest is for the rows that run."""
_UNKNOWN = 256 * 1024 * 1024
"""For a worker that does not tell what memory it has."""


class CacheLimits(msgspec.Struct, frozen=True):
    """Bytes in memory (None: a share of what the worker has; 0: no cache) and on disk (0: none).

    What is held has a given number of bytes for itself; a share only while no row needs it.
    """

    memory_bytes: int | None = None
    disk_bytes: int = 0

    @property
    def shared(self) -> bool:
        """True when running rows may take what is held."""
        return self.memory_bytes is None

    def rules(self, ready: Ready) -> CacheRules | None:
        """The rules for a worker's states; None where nothing is to be held."""
        budget = self.memory_bytes
        if budget is None:
            budget = int(ready.kv_bytes * _SHARE) or _UNKNOWN
        if ready.caches == "none" or not budget:
            return None
        rows = ready.slots * ready.context
        return CacheRules(
            budget_bytes=budget,
            trimmable=ready.caches == "trimmable",
            bytes_per_token=ready.kv_bytes // rows if rows else 0,
        )
