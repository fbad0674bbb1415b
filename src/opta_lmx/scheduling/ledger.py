"""One machine's memory: what each loaded model takes, and who makes room for the next."""

import math
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError

BUSY_RETRY_S = 10.0
_LEAST_RELOAD_S = 0.1
_GB = 1e9
_MB = 1e6


class MemoryNeed(msgspec.Struct, frozen=True):
    """What a model will take, in bytes, and how long loading it takes, in seconds.

    `peak` is what loading and prompt processing need on top of weights and caches.
    """

    weights: int
    kv: int = 0
    peak: int = 0
    load_s: float = 1.0

    @property
    def total(self) -> int:
        """Bytes to keep free for it."""
        return self.weights + self.kv + self.peak


class Residency(StrEnum):
    """Where a model's memory is in its life."""

    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"


class MemoryLine(msgspec.Struct, frozen=True):
    """One model on the books, for operators; `measured` is False while `size` is `estimate`."""

    model: str
    state: Residency
    size: int
    measured: bool
    users: int
    pinned: bool
    idle_s: float
    estimate: int


class _Entry:
    """What is known of a loaded model."""

    def __init__(self, need: MemoryNeed, now: float, *, asked: bool = True) -> None:
        self.asked = asked
        self.size = self.estimate = need.total
        self.load_s = max(_LEAST_RELOAD_S, need.load_s)
        self.measured = False
        self.state = Residency.LOADING
        self.users = 0
        self.last_use = now

    def evictability(self, now: float) -> float:
        """How little is lost by unloading: time idle in units of the time to load it again."""
        return (now - self.last_use) / self.load_s


class MemoryLedger:
    """Keeps the books of one machine budget and decides who makes room.

    Only idle models are ever chosen: without users, not pinned, and ready or still being loaded
    without anybody having asked for them. A model is admitted on its estimate before it is
    loaded; bytes of those that leave count until they are `gone`, so loading begins when
    `may_load` says so.

    Args:
        budget: bytes for all models together.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.pinned: set[str] = set()
        self._entries: dict[str, _Entry] = {}
        self._leaving: list[tuple[str, _Entry]] = []

    # --- what there is

    @property
    def committed(self) -> int:
        """Bytes of all models that are loaded or being loaded."""
        return sum(entry.size for entry in self._entries.values())

    @property
    def free(self) -> int:
        """Bytes nobody has a claim on, once all that leave are gone; below 0 when overdrawn."""
        return self.budget - self.committed

    def __contains__(self, model: str) -> bool:
        """True for a model that is loaded or being loaded."""
        return model in self._entries

    @property
    def loading(self) -> bool:
        """True while any model is being loaded."""
        return any(entry.state is Residency.LOADING for entry in self._entries.values())

    def is_loading(self, model: str) -> bool:
        """True while this model is being loaded."""
        entry = self._entries.get(model)
        return entry is not None and entry.state is Residency.LOADING

    def lines(self, now: float) -> list[MemoryLine]:
        """Every model on the books, those that leave last."""
        return [
            MemoryLine(
                name,
                entry.state,
                entry.size,
                entry.measured,
                entry.users,
                name in self.pinned,
                0.0 if entry.users else now - entry.last_use,
                entry.estimate,
            )
            for name, entry in [*self._entries.items(), *self._leaving]
        ]

    # --- coming

    def admit(
        self,
        model: str,
        need: MemoryNeed,
        now: float,
        spare: Callable[[str, float], bool] | None = None,
        *,
        asked: bool = True,
        kept: int = 0,
    ) -> tuple[str, ...]:
        """Reserve memory for a model; those named in return must be unloaded for it.

        They are marked as leaving. Nothing is done for a model that is on the books.

        Args:
            model: who is to be loaded.
            need: what it will take.
            now: monotonic seconds.
            spare: asked of every idle model, with the seconds for which it has been idle, whether
                it may go; all may if absent.
            asked: somebody waits for it; one for which nobody does makes room while it is loaded.
            kept: bytes that are free and stay so.

        Raises:
            LmxError: INSUFFICIENT_RESOURCES `model_too_large` when it can never be loaded beside
                the pinned models; UNAVAILABLE `memory_busy` while others use the memory.
        """
        if model in self._entries:
            return ()
        self._check_size(model, need.total)
        idle = self._idle(now)
        if spare is not None:
            idle = [name for name in idle if spare(name, now - self._entries[name].last_use)]
        victims = self._enough(idle, need.total - self.free + kept)
        if victims is None:
            raise self._busy(model, need.total, idle)
        for name in victims:
            self._leave(name)
        self._entries[model] = _Entry(need, now, asked=asked)
        return tuple(victims)

    def readmit(self, model: str, need: MemoryNeed, now: float) -> tuple[str, ...]:
        """As `admit`, for one on the books that is loaded anew: its old process leaves.

        Raises:
            LmxError: as `admit`; the model stays as it is then.
        """
        old = self._entries.pop(model, None)
        try:
            victims = self.admit(model, need, now)
        except LmxError:
            if old is not None:
                self._entries[model] = old
            raise
        if old is not None:
            self._depart(model, old)
        return victims

    def may_load(self) -> bool:
        """True when no memory is used that models being loaded were promised."""
        leaving = sum(entry.size for _, entry in self._leaving)
        return not leaving or self.committed + leaving <= self.budget

    def loaded(self, model: str, size: int, now: float) -> None:
        """The model is ready and was measured to take `size` bytes with all it may ever need."""
        entry = self._entries.get(model)
        if entry is not None:
            entry.state = Residency.READY
            entry.size, entry.measured = size, True
            entry.last_use = now

    def withdraw(self, model: str) -> None:
        """The model is not loaded after all: what was reserved for it is free."""
        if self.is_loading(model):
            del self._entries[model]

    # --- use

    def asked(self, model: str) -> None:
        """Somebody waits for a model that may have been loaded ahead."""
        entry = self._entries.get(model)
        if entry is not None:
            entry.asked = True

    def use(self, model: str, users: int, last_use: float) -> None:
        """So many use the model or wait for it now; it is not evicted while any do.

        `last_use` is when the model was last used, as far as known (monotonic s).
        """
        entry = self._entries.get(model)
        if entry is not None:
            entry.users = users
            entry.last_use = max(entry.last_use, last_use)

    def last_use(self, model: str) -> float | None:
        """When the model was last used, or came up (monotonic s); None if it is not loaded."""
        entry = self._entries.get(model)
        return None if entry is None else entry.last_use

    # --- going

    def evict(self, model: str) -> bool:
        """Mark an idle model as leaving; False, and nothing done, for any other."""
        entry = self._entries.get(model)
        if entry is None or not self._is_idle(model, entry):
            return False
        self._leave(model)
        return True

    def leave(self, model: str) -> None:
        """The model is unloaded, idle or not: somebody wants it so."""
        if model in self._entries:
            self._leave(model)

    def gone(self, model: str) -> None:
        """The model's process has ended, for whatever reason: its memory is free.

        Of a model that was admitted again while it left, it is the old process.
        """
        if not self.left(model):
            self._entries.pop(model, None)

    def left(self, model: str) -> bool:
        """A model's process that was to leave has ended; False if none was to."""
        for place, (name, _) in enumerate(self._leaving):
            if name == model:
                del self._leaving[place]
                return True
        return False

    def depart_unseen(self, model: str) -> None:
        """A model for which nothing was reserved yet ends; it is `gone` once, as the others are."""
        self._leaving.append((model, _Entry(MemoryNeed(0), 0.0)))

    def expired(self, now: float, ttl_s: Callable[[str], float]) -> tuple[str, ...]:
        """Models that have been idle for longer than each may be (s), the longest first."""
        return tuple(
            name
            for name in sorted(self._idle(now), key=lambda name: self._entries[name].last_use)
            if now - self._entries[name].last_use > ttl_s(name) and not self.is_loading(name)
        )

    def overdraft(self, now: float) -> tuple[str, ...]:
        """Idle models to unload because some measured more than estimated; marked as leaving.

        Nobody goes in vain: none where all of them would not be enough, nor the only model there
        is, which would take as much when it is loaded again.
        """
        if len(self._entries) == 1:
            return ()
        victims = self._enough(self._idle(now), -self.free) or []
        for name in victims:
            self._leave(name)
        return tuple(victims)

    # --- choosing

    def would_go(self, missing: int, up_at: Mapping[str, float], now: float) -> list[str] | None:
        """Who would have to go for so many bytes, were nobody spared for being busy.

        Idle ones first, then those that are up longest (`up_at`: since when; the others longer).
        None if all would not be enough; those that are being loaded for somebody stay.
        """
        idle = self._idle(now)
        busy = [
            name
            for name, entry in self._entries.items()
            if entry.state is Residency.READY and name not in self.pinned and name not in idle
        ]
        busy.sort(key=lambda name: up_at.get(name, -math.inf))
        return self._enough([*idle, *busy], missing)

    def size(self, models: Collection[str]) -> int:
        """Bytes of models that are on the books."""
        return sum(self._entries[name].size for name in models)

    def _is_idle(self, name: str, entry: _Entry) -> bool:
        in_use = entry.users or (entry.asked and entry.state is Residency.LOADING)
        return not in_use and name not in self.pinned

    def _idle(self, now: float) -> list[str]:
        """Models that may be unloaded, those that lose least by it first."""
        idle = [name for name, entry in self._entries.items() if self._is_idle(name, entry)]
        return sorted(idle, key=lambda name: self._entries[name].evictability(now), reverse=True)

    def _enough(self, idle: Collection[str], missing: int) -> list[str] | None:
        """The first of `idle` that free what is missing, none in vain; None if all do not."""
        chosen: list[str] = []
        freed = 0
        for name in idle:
            if freed >= missing:
                break
            chosen.append(name)
            freed += self._entries[name].size
        if freed < missing:
            return None
        for name in reversed(chosen):
            size = self._entries[name].size
            if freed - size >= missing:
                chosen.remove(name)
                freed -= size
        return chosen

    def _leave(self, name: str) -> None:
        self._depart(name, self._entries.pop(name))

    def _depart(self, name: str, entry: _Entry) -> None:
        entry.state = Residency.LEAVING
        self._leaving.append((name, entry))

    # --- refusing

    def _check_size(self, model: str, size: int) -> None:
        pinned = sum(entry.size for name, entry in self._entries.items() if name in self.pinned)
        if size > self.budget - pinned:
            beside = f", of which pinned models hold {_amount(pinned)}" if pinned else ""
            raise LmxError(
                ErrorKind.INSUFFICIENT_RESOURCES,
                f"Model '{model}' needs {_amount(size)} of memory; the budget is "
                f"{_amount(self.budget)}{beside}.",
                code="model_too_large",
                param="model",
            )

    def _busy(self, model: str, size: int, idle: Collection[str]) -> LmxError:
        freeable = sum(self._entries[name].size for name in idle)
        others = ", ".join(name for name in self._entries if name not in idle)
        return LmxError(
            ErrorKind.UNAVAILABLE,
            f"Model '{model}' needs {_amount(size)} of memory; {_amount(max(0, self.free))} of "
            f"{_amount(self.budget)} are free and idle models could free "
            f"{_amount(freeable)}. In use: {others}.",
            code="memory_busy",
            param="model",
            retry_after=BUSY_RETRY_S,
        )


def _amount(size: int) -> str:
    """Bytes for people."""
    if size >= _GB:
        return f"{size / _GB:.1f} GB"
    return f"{size / _MB:.1f} MB" if size >= _MB else f"{size} bytes"
