"""What is decided about one request's prompt before it is submitted."""

import msgspec

from opta_lmx.backends.frames import Keep, Reuse
from opta_lmx.engine.prefix.tree import WIDTH


class Divergence(msgspec.Struct, frozen=True):
    """Where a session's prompt left its own last one.

    They share `tokens` of the last prompt's `of`; the first difference lies in its turn number
    `turn` of `turns` (0: before the first cut).
    """

    tokens: int
    of: int
    turn: int
    turns: int


class CachePlan(msgspec.Struct, frozen=True):
    """How a prompt uses the cache, good until the index is next told something.

    `reuse` and `keep` go into the `Submit` as they are, `keep_end` too (0: the state at the
    answer's end is of no use). `leader` is a request in flight whose checkpoint is worth waiting
    for, `load` says that a file is; both are known by `awaits`, which will give the first `offered`
    tokens. A plan is whole without waiting.
    `opens`: it is the first of its conversation that is known.
    `ids`, `cuts`, `anchors`, `salt` and `session` are what it was made for.
    """

    ids: bytes
    cuts: tuple[int, ...]
    salt: str
    session: str | None
    anchors: tuple[int, ...] = ()
    reuse: Reuse | None = None
    keep: tuple[Keep, ...] = ()
    keep_end: int = 0
    leader: int | None = None
    load: bool = False
    awaits: int = 0
    offered: int = 0
    divergence: Divergence | None = None
    learn: bool = True
    opens: bool = False

    @property
    def tokens(self) -> int:
        """The prompt's length."""
        return len(self.ids) // WIDTH

    @property
    def cached(self) -> int:
        """Tokens of the prompt that need no work."""
        return 0 if self.reuse is None else self.reuse.tokens

    @property
    def waits(self) -> bool:
        """True when something worth waiting for is under way or on disk."""
        return self.awaits != 0 or self.load
