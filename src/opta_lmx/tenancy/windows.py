"""What was used of late: counts that leave their window as time goes on, behind one port.

A window is of one owner, one resource and one span. What is taken counts for the whole span, and
at most one bucket's width longer: events of one bucket leave together, with the last of them. So
never more is admitted in any span than its limit, and what a store says of a wait is enough.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import msgspec

from opta_lmx.core.clock import Clock

Whose = Literal["key", "tenant"]
Resource = Literal["requests", "prompt_tokens", "output_tokens", "agent_runs", "skill_calls"]
Span = Literal["minute", "day"]

RESOURCES: tuple[Resource, ...] = (
    "requests",
    "prompt_tokens",
    "output_tokens",
    "agent_runs",
    "skill_calls",
)
SPAN_MS: dict[Span, int] = {"minute": 60_000, "day": 86_400_000}
BUCKET_MS: dict[Span, int] = {"minute": 1_000, "day": 60_000}
SWEEP_MS = 60_000
"""How often buckets that nothing counts any more are looked for."""


class Limit(msgspec.Struct, frozen=True):
    """How much of a resource an owner may use in any span; `owner` is told nobody else."""

    whose: Whose
    owner: str
    resource: Resource
    span: Span
    most: int

    @property
    def window(self) -> str:
        """The window's name in a store."""
        return f"{self.whose}:{self.owner}:{self.resource}:{self.span}"

    @property
    def span_ms(self) -> int:
        """How long what is taken counts."""
        return SPAN_MS[self.span]

    def bucket(self, now_ms: int) -> int:
        """When the bucket began that a moment falls into, in ms."""
        return now_ms - now_ms % BUCKET_MS[self.span]


class Want(msgspec.Struct, frozen=True):
    """So much of what a limit bounds; 0 takes nothing and asks whether there is anything left."""

    limit: Limit
    amount: int


class Level(msgspec.Struct, frozen=True):
    """A limit as it stands: what is used, and ms until all of it is free again."""

    limit: Limit
    used: int
    reset_ms: int

    @property
    def remaining(self) -> int:
        """What may still be taken."""
        return max(0, self.limit.most - self.used)


class Part(msgspec.Struct, frozen=True):
    """What was counted in one bucket of a window."""

    window: str
    start_ms: int
    amount: int


class Taken(msgspec.Struct, frozen=True):
    """What came of asking: all was counted (`parts`), or nothing because of `refused`.

    `levels` are those of the limits asked for, afterwards. `wait_ms` is when the refused amount
    would be free in every window, if nothing else is taken.
    """

    levels: tuple[Level, ...]
    parts: tuple[Part, ...] = ()
    refused: Level | None = None
    wait_ms: int = 0


class Bucket(msgspec.Struct):
    """What was counted from one moment on, until the last of it leaves the window (ms)."""

    until_ms: int
    amount: int


class Windows(Protocol):
    """Where counts are kept."""

    async def take(self, wants: Sequence[Want]) -> Taken:
        """Count all of it, or nothing where any limit would be passed. Raises UNAVAILABLE."""
        ...

    def add(self, wants: Sequence[Want]) -> None:
        """Count what was used already, whatever the limits; every later `take` sees it."""
        ...

    def give_back(self, parts: Sequence[Part]) -> None:
        """Free what was taken for nothing, if it still counts; every later `take` sees it."""
        ...

    async def settle(self) -> None:
        """Return once all that was added and given back is kept. Never raises LmxError."""
        ...

    async def levels(self, limits: Sequence[Limit]) -> tuple[Level, ...]:
        """Limits as they stand. Raises UNAVAILABLE."""
        ...

    async def close(self) -> None:
        """Keep what was added and given back, if that can be done; comes last."""
        ...


def passes(want: Want, used: int) -> int:
    """By how much a limit would be passed; nothing is too much where it is used up."""
    return used + max(1, want.amount) - want.limit.most


def frees_ms(buckets: Iterable[Bucket], amount: int, now_ms: int) -> int | None:
    """Ms until at least this amount has left; None where there is never so much in use."""
    freed = 0
    for bucket in sorted(buckets, key=lambda one: one.until_ms):
        freed += bucket.amount
        if freed >= amount:
            return max(0, bucket.until_ms - now_ms)
    return None


class MemoryWindows:
    """Counts of this process alone, gone when it ends.

    Args:
        clock: time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[str, dict[int, Bucket]] = {}
        self._swept_ms = self._now_ms()

    def __len__(self) -> int:
        return len(self._windows)

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    async def take(self, wants: Sequence[Want]) -> Taken:
        """See `Windows`."""
        now_ms = self._now_ms()
        self._sweep(now_ms)
        refused: Level | None = None
        wait_ms = 0
        for want in wants:
            level = self._level(want.limit, now_ms)
            excess = passes(want, level.used)
            if excess > 0:
                waits_ms = self._wait_ms(want.limit, excess, now_ms)
                if refused is None or waits_ms > wait_ms:
                    refused, wait_ms = level, waits_ms
        parts = () if refused else self._count(wants, now_ms)
        levels = tuple(self._level(want.limit, now_ms) for want in wants)
        return Taken(levels, parts, refused, wait_ms)

    def add(self, wants: Sequence[Want]) -> None:
        """See `Windows`."""
        self._count(wants, self._now_ms())

    def give_back(self, parts: Sequence[Part]) -> None:
        """See `Windows`."""
        for part in parts:
            bucket = self._windows.get(part.window, {}).get(part.start_ms)
            if bucket is not None:
                bucket.amount = max(0, bucket.amount - part.amount)

    async def settle(self) -> None:
        """See `Windows`."""

    async def close(self) -> None:
        """See `Windows`."""

    async def levels(self, limits: Sequence[Limit]) -> tuple[Level, ...]:
        """See `Windows`."""
        now_ms = self._now_ms()
        return tuple(self._level(limit, now_ms) for limit in limits)

    def _living(self, window: str, now_ms: int) -> list[Bucket]:
        """The buckets that count; those that do not are forgotten."""
        buckets = self._windows.get(window)
        if buckets is None:
            return []
        for start_ms in [at for at, one in buckets.items() if one.until_ms <= now_ms]:
            del buckets[start_ms]
        if not buckets:
            del self._windows[window]
        return [*buckets.values()]

    def _level(self, limit: Limit, now_ms: int) -> Level:
        buckets = [one for one in self._living(limit.window, now_ms) if one.amount]
        last_ms = max((one.until_ms for one in buckets), default=now_ms)
        return Level(limit, sum(one.amount for one in buckets), last_ms - now_ms)

    def _wait_ms(self, limit: Limit, amount: int, now_ms: int) -> int:
        found = frees_ms(self._living(limit.window, now_ms), amount, now_ms)
        return limit.span_ms if found is None else found

    def _count(self, wants: Sequence[Want], now_ms: int) -> tuple[Part, ...]:
        parts: list[Part] = []
        for want in wants:
            if want.amount <= 0:
                continue
            limit, start_ms = want.limit, want.limit.bucket(now_ms)
            buckets = self._windows.setdefault(limit.window, {})
            bucket = buckets.setdefault(start_ms, Bucket(0, 0))
            bucket.until_ms = now_ms + limit.span_ms
            bucket.amount += want.amount
            parts.append(Part(limit.window, start_ms, want.amount))
        return tuple(parts)

    def _sweep(self, now_ms: int) -> None:
        if now_ms - self._swept_ms < SWEEP_MS:
            return
        self._swept_ms = now_ms
        for window in list(self._windows):
            self._living(window, now_ms)
