"""A stored state: where it lies, and whether it may be taken away."""

from typing import Literal, NamedTuple

from opta_lmx.engine.prefix.tree import Heat, Node

Where = Literal["memory", "disk", "both", "moving"]


class Source(NamedTuple):
    """Who made a state: the request `number`; `opens`: the first one of its conversation.

    `told`: its caller marked the place.
    """

    number: int
    opens: bool
    told: bool = False


_FOUND = Source(0, opens=True)
"""Of a state whose file was there at the start: it may well be where conversations begin."""


class Entry:
    """The state of exactly the prefix that ends at `node`.

    `handle` is its name in the worker (0: not in memory), `name` its file (None: not on disk);
    `size` and `filed` are the bytes it takes in memory and on disk.
    `source` is who made it. `moving` is the copy under way, `leaving` says that
    memory is given up when it is on disk, `pins` counts requests that are about to start from it.
    `bad` says that it did not hold what it should: it goes with the last pin.
    """

    __slots__ = (
        "bad",
        "filed",
        "handle",
        "heat",
        "leaving",
        "moving",
        "name",
        "node",
        "pins",
        "salt",
        "size",
        "source",
        "used",
    )

    def __init__(self, node: Node, salt: str, now: float) -> None:
        self.node = node
        self.salt = salt
        self.bad = False
        self.source = _FOUND
        self.size = 0
        self.filed = 0
        self.heat = Heat(now)
        self.used = now
        self.handle = 0
        self.name: str | None = None
        self.moving: Literal["spill", "load"] | None = None
        self.leaving = False
        self.pins = 0

    @property
    def tokens(self) -> int:
        """The length of the prefix."""
        return self.node.depth

    @property
    def usable(self) -> bool:
        """True when a request can start from it now."""
        return self.handle != 0 and self.moving != "load" and not self.bad

    @property
    def stays(self) -> bool:
        """True when it is in memory and meant to stay there."""
        return self.usable and not self.leaving

    @property
    def may_go(self) -> bool:
        """True when memory can be taken from it now."""
        return bool(self.handle) and not (self.pins or self.moving or self.leaving or self.bad)

    @property
    def where(self) -> Where:
        """Where the state lies."""
        if self.moving is not None:
            return "moving"
        if self.handle:
            return "memory" if self.name is None else "both"
        return "disk"
