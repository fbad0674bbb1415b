"""Keeps what slots hold in files, so that a new process need not begin from nothing.

A slot is written when nothing runs for a while: llama.cpp does nothing else meanwhile. It is
written again only when much of it is new.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from opta_lmx.backends.gguf.slot import Held, Tokens, common
from opta_lmx.backends.gguf.slotfiles import SlotFile, SlotFiles
from opta_lmx.backends.gguf.slots import Gathering, Prepared, Start
from opta_lmx.core.clock import Clock

_LEAST_TOKENS = 64
_ENOUGH = 0.9
"""A slot is not written again while this share of it is in its file."""
_SAME = 0.5
"""A slot that still holds this share of its file goes on with the same conversation."""


class KeeperLimits(NamedTuple):
    """`slots` there are, hence files; their `bytes` together; `quiet_s` of silence before one."""

    slots: int
    bytes: int
    quiet_s: float


class _Change(NamedTuple):
    number: int
    held: Held
    version: int


class Keeper:
    """Writes, restores, copies and erases slots. All but its own thread is the engine's.

    Args:
        files: where to.
        limits: how much.
        clock: tells how long it has been quiet.
        prime: makes an idle slot count as one of an adapter's; False where it could not.
    """

    def __init__(
        self,
        files: SlotFiles,
        limits: KeeperLimits,
        clock: Clock,
        prime: Callable[[int, str], bool],
    ) -> None:
        self._files = files
        self._prime = prime
        self._limits = limits
        self._clock = clock
        self._changes: dict[int, _Change] = {}
        self._versions = [0] * limits.slots
        self._running: set[int] = set()
        self._quiet_since = clock.monotonic()
        self._kept: list[SlotFile] = []
        self._of: dict[int, SlotFile] = {}
        self._news = threading.Condition()
        if files.lasting:
            threading.Thread(target=self._run, name="slot-files", daemon=True).start()

    def restore(self) -> list[tuple[int, Held]]:
        """Fill slots from files, the newest of them; return what which slot holds, oldest first."""
        if not self._files.lasting:
            return []
        found = self._files.found()
        for file in found[: -self._limits.slots]:
            self._files.remove(file)
        newest = enumerate(found[-self._limits.slots :])
        filled = [(number, file) for number, file in newest if self._restore(number, file)]
        self._of, self._kept = dict(filled), [file for _, file in filled]
        return [(number, file.held) for number, file in filled]

    def prepare(self, start: Start) -> Prepared:
        """Do what is to be done before a request starts."""
        before, files = start.before, self._files
        lost: Tokens = ()
        for number in before.erase:
            files.erase(number)
        if before.park is not None and not files.park(start.slot, before.park):
            lost = (before.park,)
        filled = False
        if before.prime and not self._prime(start.slot, start.request.adapter):
            files.erase(start.slot)
        elif before.load is not None:
            filled = files.unpark(before.load, start.slot)
            lost += () if filled else (before.load,)
        elif before.copy is not None:
            filled = files.copy(before.copy, start.slot)
        for aside in (*before.forget, *lost):
            files.forget(aside)
        return Prepared(filled, lost)

    def put_aside(self, gathering: Gathering) -> Tokens:
        """Put aside what an idle slot holds for whoever shares it; return what was not."""
        for aside in gathering.forget:
            self._files.forget(aside)
        aside = gathering.aside
        if aside is None or self._files.park(gathering.slot, aside):
            return ()
        self._files.forget(aside)
        return (aside,)

    def _restore(self, number: int, file: SlotFile) -> bool:
        adapter = file.held.adapter
        return (not adapter or self._prime(number, adapter)) and self._files.restore(number, file)

    def started(self, number: int) -> None:
        """A request runs on a slot: what it held is of the past."""
        with self._news:
            self._running.add(number)
            self._versions[number] += 1
            self._changes.pop(number, None)

    def ended(self, number: int, held: Held | None) -> None:
        """A slot is idle and holds this."""
        with self._news:
            self._running.discard(number)
            self._quiet_since = self._clock.monotonic()
            if self._files.lasting and held is not None and len(held.tokens) >= _LEAST_TOKENS:
                self._changes[number] = _Change(number, held, self._versions[number])
                self._news.notify()

    def _run(self) -> None:
        while True:
            change = self._next()
            if self._is_new(change):
                self._write(change)

    def _next(self) -> _Change:
        """Wait for silence and take a slot that changed."""
        with self._news:
            while True:
                quiet = self._clock.monotonic() - self._quiet_since
                if self._changes and not self._running and quiet >= self._limits.quiet_s:
                    return self._changes.pop(next(iter(self._changes)))
                waiting = bool(self._changes) and not self._running
                self._news.wait(self._limits.quiet_s - quiet if waiting else None)

    def _is_new(self, change: _Change) -> bool:
        """Whether its own file lacks much of it, and every other file lacks some."""
        held, own = change.held, self._of.get(change.number)
        if own is not None and _shared(own, held) >= _ENOUGH * len(held.tokens):
            return False
        return all(_shared(file, held) < len(held.tokens) - _LEAST_TOKENS for file in self._kept)

    def _write(self, change: _Change) -> None:
        draft = self._files.draft(change.number, change.held)
        if draft is None:
            return
        with self._news:
            stale = self._versions[change.number] != change.version
        # Where a request came between, nobody knows whose tokens these are.
        file = None if stale else self._files.commit(draft, change.held)
        if file is None:
            draft.unlink(missing_ok=True)
            return
        self._replace(change.number, file)
        while len(self._kept) > self._limits.slots or self._bytes() > self._limits.bytes:
            self._files.remove(self._kept.pop(0))

    def _replace(self, number: int, new: SlotFile) -> None:
        """Count a slot's new file, and remove its old one if it is of the same conversation."""
        old = self._of.get(number)
        self._of[number] = new
        if old is not None and _shared(old, new.held) >= _SAME * len(old.held.tokens):
            self._kept = [file for file in self._kept if file.path != old.path]
            if old.path != new.path:
                self._files.remove(old)
        self._kept = [*(file for file in self._kept if file.path != new.path), new]

    def _bytes(self) -> int:
        return sum(file.bytes for file in self._kept)


def _shared(file: SlotFile, held: Held) -> int:
    return common(file.held.tokens, held.tokens) if file.held.tenant == held.tenant else 0
