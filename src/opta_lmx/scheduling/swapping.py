"""Models that have no room beside each other take turns; how long a turn is, and who is next."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.scheduling.ledger import MemoryLedger, MemoryNeed

LULL_S = 1.0
"""A model whose turn it is gives it up when nobody has asked for it for so long."""
_OVERRUN = 0.25
"""What ran beyond its turn for some time is taken to need a quarter of that time yet."""


class Swap(msgspec.Struct, frozen=True):
    """What is to be done now, so that the model that waits for room longest gets it.

    Attributes:
        closed: loaded models that are to begin nothing new, though running requests end there.
        admitted: a model that may be loaded; its memory is reserved.
        evict: models to unload for it.
        refused: why the model that was next can have no room at all.
    """

    closed: frozenset[str] = frozenset()
    admitted: str | None = None
    evict: tuple[str, ...] = ()
    refused: LmxError | None = None


class _Call(msgspec.Struct, frozen=True):
    """A model that waits for room: what it takes, and since when (monotonic s)."""

    need: MemoryNeed
    at: float


class Swaps:
    """The line of models that wait for room in one machine's memory.

    The first of them is let in when enough idle models can go. Of models that are busy those go
    that have been there longest: each first works off what it has, for `turn_s` at most, counted
    from the call that it is to go for or from when it came up, whichever was later; then it
    begins nothing new, and goes when its running requests have ended. One that was itself waited
    for keeps its room through short lulls of its turn. So loads are paid for by at least a turn's
    work, or by all there was, and nobody waits longer than everybody's turns before, with what
    runs on at their ends. Others pass the first where they take nothing that it counts on.

    Args:
        ledger: the machine's memory.
        turn_s: the longest turn while others wait (s); 0: nobody waits in this line.

    Attributes:
        unattended: those in the line whom nobody waits for just now: they take idle room alone.
        promised: models to which somebody was told to come back soon; no lull ends their turns.
    """

    def __init__(self, ledger: MemoryLedger, turn_s: float) -> None:
        self._ledger = ledger
        self.turn_s = turn_s
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self.unattended: frozenset[str] = frozenset()
        self.promised: frozenset[str] = frozenset()
        self._let_in: set[str] = set()
        self._up_at: dict[str, float] = {}

    # --- who waits

    def __contains__(self, model: str) -> bool:
        """True for a model that waits for room."""
        return model in self._calls

    def __len__(self) -> int:
        """How many models wait for room."""
        return len(self._calls)

    def __iter__(self) -> Iterator[str]:
        """Those that wait, the first first."""
        return iter(self._calls)

    def call(self, model: str, need: MemoryNeed, now: float) -> None:
        """Somebody waits for a model that has no room; nothing changes if it was called before."""
        self._calls.setdefault(model, _Call(need, now))

    def withdraw(self, model: str) -> bool:
        """Nobody waits for the model any more; True if it was in the line."""
        return self._calls.pop(model, None) is not None

    def wait_s(self, model: str, now: float) -> float:
        """Seconds until a model in the line may begin to load, should all turns be used in full.

        How long requests run is not known here, so it may take longer; the longer some have run
        beyond the turn of their model, the longer this gets.
        """
        if model not in self._calls:
            return 0.0
        before = itertools.takewhile(lambda one: one != model, self._attended())
        others = sum(self.turn_s + self._calls[one].need.load_s for one in before)
        first = self._first() or model
        chosen = self._chosen(first, now)
        if chosen is None:
            return others + self.turn_s
        left_s = max((self._left_s(one, first, now) for one in chosen), default=0.0)
        return others + max(left_s, -_OVERRUN * left_s)

    # --- whose turn it is

    def came_up(self, model: str, now: float) -> None:
        """A model serves from now on: a turn begins where it was waited for."""
        if model in self._let_in or self._calls:
            self._up_at[model] = now
        self._let_in.discard(model)

    def gone(self, model: str) -> None:
        """A model that had room has it no longer."""
        self._let_in.discard(model)
        self._up_at.pop(model, None)

    def spares(self, now: float) -> Callable[[str, float], bool]:
        """Says of an idle model, with the seconds for which it is idle, whether it may go.

        It keeps its room through a short lull of its turn.
        """

        def may_go(model: str, idle_s: float) -> bool:
            up_at = self._up_at.get(model)
            if up_at is None or now - up_at >= self.turn_s:
                return True
            return idle_s >= LULL_S and model not in self.promised

        return may_go

    # --- deciding

    def admit(self, model: str, need: MemoryNeed, now: float) -> tuple[str, ...]:
        """Reserve memory for a model that takes nothing on which the first in line counts.

        Those named in return must be unloaded for it. Raises what `MemoryLedger.admit` raises.
        """
        spares, first = self.spares(now), self._first()
        chosen, kept = list[str](), 0
        if first is not None and first != model:
            found, kept = self._chosen(first, now), self._ledger.budget
            if found is not None:
                chosen, free = found, self._ledger.free
                over = free + self._ledger.size(chosen) - self._calls[first].need.total
                kept = max(0, free - over)
        return self._admit(
            model, need, now, lambda one, idle_s: one not in chosen and spares(one, idle_s), kept
        )

    def closing(self, now: float) -> frozenset[str]:
        """Loaded models that are to begin nothing new, as their turn is over."""
        first = self._first()
        chosen = [] if first is None else self._chosen(first, now) or []
        return frozenset(one for one in chosen if self._left_s(one, first or "", now) <= 0)

    def look(self, now: float) -> Swap:
        """What is to be done now; with what was decided before, it is all there is to be done.

        The ledger must know who is busy: of a closed model only what runs counts.
        """
        first, closed = self._first(), self.closing(now)
        for model in [*self._attended(), *(one for one in self._calls if one in self.unattended)]:
            need = self._calls[model].need
            try:
                if model == first:
                    evict = self._admit_first(model, need, now, closed)
                else:
                    evict = self.admit(model, need, now)
            except LmxError as error:
                if error.code == "model_too_large":
                    del self._calls[model]
                    return Swap(closed, admitted=model, refused=error)
                continue
            del self._calls[model]
            self._let_in.add(model)
            return Swap(frozenset() if model == first else closed, model, evict)
        return Swap(closed)

    def _admit_first(
        self, model: str, need: MemoryNeed, now: float, closed: Collection[str]
    ) -> tuple[str, ...]:
        spares = self.spares(now)
        return self._admit(
            model, need, now, lambda one, idle_s: one in closed or spares(one, idle_s)
        )

    def _admit(
        self,
        model: str,
        need: MemoryNeed,
        now: float,
        spare: Callable[[str, float], bool],
        kept: int = 0,
    ) -> tuple[str, ...]:
        evict = self._ledger.admit(model, need, now, spare, kept=kept)
        for one in evict:
            self.gone(one)
        return evict

    def _attended(self) -> list[str]:
        """Those in the line whom somebody waits for, the first first."""
        return [one for one in self._calls if one not in self.unattended]

    def _first(self) -> str | None:
        """For whom others have to go."""
        return next(iter(self._attended()), None)

    def _chosen(self, model: str, now: float) -> list[str] | None:
        """Who is to go for a model; None while that cannot be said."""
        missing = self._calls[model].need.total - self._ledger.free
        return self._ledger.would_go(missing, self._up_at, now)

    def _left_s(self, model: str, first: str, now: float) -> float:
        """Seconds that a loaded model may still begin requests, while `first` waits."""
        called_at = self._calls[first].at
        return max(self._up_at.get(model, called_at), called_at) + self.turn_s - now
