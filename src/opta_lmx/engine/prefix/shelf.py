"""The stored states of one model: bytes in memory and on disk, and which must go.

What is to be done is collected as orders; the shelf's books are ahead of the worker by those not
yet carried out.
"""

import heapq
from collections.abc import Iterator

from opta_lmx.core.clock import Clock
from opta_lmx.engine.prefix.entries import Entry, Source
from opta_lmx.engine.prefix.manifest import Manifest, file_name
from opta_lmx.engine.prefix.orders import Counts, Outbox
from opta_lmx.engine.prefix.rules import CacheRules
from opta_lmx.engine.prefix.tree import Node, prefix_of, release
from opta_lmx.engine.prefix.worth import worth


class Shelf:
    """All entries, by handle and by file name.

    Args:
        rules: budgets and costs.
        clock: now.
        model: the `ModelKey.digest()` that files are made for.

    Attributes:
        promised: bytes of the checkpoints that requests in flight are to bring.
        reserved: bytes of them that are kept free, for they come soon.
    """

    def __init__(self, rules: CacheRules, clock: Clock, model: str) -> None:
        self.rules = rules
        self.counts = Counts()
        self.outbox = Outbox()
        self.promised = 0
        self.reserved = 0
        self._clock = clock
        self.model = model
        self._handles: dict[int, Entry] = {}
        self._files: dict[str, Entry] = {}
        self._memory = 0
        self._leaving = 0
        self._disk = 0
        self._last_handle = 0

    @property
    def memory_bytes(self) -> int:
        """Bytes held in memory, those on their way to or from disk included."""
        return self._memory

    @property
    def disk_bytes(self) -> int:
        """Bytes of files, those being written included."""
        return self._disk

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything stored, each once."""
        return tuple(dict.fromkeys([*self._handles.values(), *self._files.values()]))

    @property
    def spilling(self) -> bool:
        """True while a state is being written."""
        return any(entry.moving == "spill" for entry in self._handles.values())

    def new_handle(self) -> int:
        """A handle never used before."""
        self._last_handle += 1
        return self._last_handle

    def of(self, handle: int) -> Entry | None:
        """The entry in memory, or on its way there, under a handle."""
        return self._handles.get(handle)

    # --- memory

    def store(self, node: Node, salt: str, handle: int, size: int, source: Source) -> None:
        """A state is in memory now.

        Where its prefix is there already, it is superfluous.
        """
        now = self._clock.monotonic()
        entry = node.entry
        if entry is None:
            entry = node.entry = Entry(node, salt, now)
        elif entry.handle:
            self.outbox.drop(handle)
            return
        entry.handle, entry.size, entry.used, entry.source = handle, size, now, source
        self._handles[handle] = entry
        self._memory += size
        if not self.make_room(0) and entry.may_go:
            self._leave_memory(entry)

    def free_bytes(self) -> int:
        """What could be made free for a new request, beside what others were promised."""
        bound = sum(entry.size for entry in self._handles.values() if not entry.may_go)
        return self.rules.staying_bytes - self.promised - bound + self._leaving

    def going(self) -> Iterator[tuple[float, int]]:
        """What each state is worth that may go, in seconds a byte, and its bytes."""
        states = [entry for entry in self._handles.values() if entry.may_go]
        return ((self._worth(entry), entry.size) for entry in states)

    def make_room(self, size: int) -> bool:
        """Evict the least worthy entries until `size` more fit; False when that cannot be."""
        if self._excess(size) <= 0:
            return True
        heap = [
            (self._worth(entry), entry.used, handle)
            for handle, entry in self._handles.items()
            if entry.may_go
        ]
        heapq.heapify(heap)
        while heap and self._excess(size) > 0:
            _, used, handle = heapq.heappop(heap)
            entry = self._handles[handle]
            again = (self._worth(entry), used, handle)
            if heap and again > heap[0]:
                heapq.heappush(heap, again)  # what went before made it worth more
            else:
                self._evict(entry)
        return self._excess(size) <= 0

    def lose(self, handle: int) -> None:
        """The worker does not have this state, or cannot read it."""
        entry = self._handles.get(handle)
        if entry is None:
            return
        if entry.moving == "load":
            self.counts.unreadable += 1
            entry.moving = None
            self._leave_disk(entry)
        else:
            self.counts.lost += 1
            self._stop_spilling(entry)
        self._leave_memory(entry, tell=False)

    def distrust(self, entry: Entry) -> None:
        """The state is not what the index believed: forget it, when nobody is about to fork."""
        entry.bad = True
        if entry.pins:
            return
        self._stop_spilling(entry)
        self._leave_disk(entry)
        self._leave_memory(entry)

    def clear(self) -> None:
        """The worker is gone and with it everything in memory."""
        for entry in list(self._handles.values()):
            self._stop_spilling(entry)
            entry.moving = None
            self._leave_memory(entry, tell=False)
        self.outbox.clear()

    def pin(self, entry: Entry) -> None:
        """Keep an entry in memory until it is unpinned as often."""
        entry.pins += 1

    def unpin(self, entry: Entry) -> None:
        """A request has started from it, or will not."""
        entry.pins = max(0, entry.pins - 1)
        if entry.bad:
            self.distrust(entry)
        self._finish_leaving(entry)
        self.make_room(0)

    # --- disk

    def load(self, entry: Entry) -> int:
        """Have a state read from disk; its new handle, or 0 when there is no room for it."""
        if entry.handle:
            return entry.handle
        self.make_room(entry.size)
        if entry.name is None or self._excess(entry.size) > 0:
            return 0  # no room, or its own file had to go to make some
        entry.handle, entry.moving = self.new_handle(), "load"
        self._handles[entry.handle] = entry
        self._memory += entry.size
        self.outbox.load(entry.handle, entry.name)
        return entry.handle

    def loaded(self, handle: int) -> None:
        """A state has been read."""
        entry = self._handles.get(handle)
        if entry is not None and entry.moving == "load":
            entry.moving = None
            entry.used = self._clock.monotonic()
            self.counts.loaded += 1

    def spill(self, entry: Entry) -> bool:
        """Have a state written to disk, if it is worth it and there is room."""
        worthy = self.rules.seconds(0, entry.tokens) >= self.rules.spill_min_s
        if not worthy or entry.name is not None or entry.moving or not entry.usable:
            return False
        if not self._make_disk_room(entry.size):
            return False
        ids = prefix_of(entry.node)
        manifest = Manifest(self.model, entry.salt, ids, entry.size, self._clock.now_ms())
        self._file(entry, manifest.name)
        entry.moving = "spill"
        self.outbox.spill(entry.handle, manifest)
        return True

    def spilled(self, handle: int, done: bool) -> None:
        """A state has been written, or could not be."""
        entry = self._handles.get(handle)
        if entry is None or entry.moving != "spill":
            self.outbox.written(handle, wanted=False)
            return
        self.outbox.written(handle, wanted=done)
        entry.moving = None
        if done:
            self.counts.spilled += 1
        else:
            self._leave_disk(entry)
        self._finish_leaving(entry)

    def settle(self, everything: bool) -> None:
        """Write to disk what is worth it: one rested state at a time, or `everything` useful."""
        if not self.rules.disk_bytes or (self.spilling and not everything):
            return
        rested = self._clock.monotonic() - (0.0 if everything else self.rules.spill_after_s)
        waiting = [
            (self._worth(entry), entry.used, handle)
            for handle, entry in self._handles.items()
            if entry.name is None and entry.stays and entry.used <= rested
        ]
        for value, _, handle in sorted(waiting, reverse=True):
            if value > 0 and self.spill(self._handles[handle]) and not everything:
                return

    def adopt(self, node: Node, manifest: Manifest) -> bool:
        """Know a file that is there; False when it is not wanted."""
        fits = self._disk + manifest.size <= self.rules.disk_bytes
        if manifest.model != self.model or not fits or node.entry is not None:
            return False
        entry = node.entry = Entry(node, manifest.salt, self._clock.monotonic())
        entry.size = manifest.size
        self._file(entry, file_name(manifest.model, manifest.salt, manifest.ids))
        return True

    # --- inside

    def _excess(self, size: int) -> int:
        return self._memory - self._leaving + self.reserved + size - self.rules.staying_bytes

    def _worth(self, entry: Entry) -> float:
        return worth(entry, self.rules, self._clock.monotonic(), _stays)

    def _evict(self, entry: Entry) -> None:
        """Take an entry out of memory, by way of the disk where that is worth it."""
        self.counts.evicted += 1
        fits = self._leaving + entry.size <= self.rules.leaving_bytes
        useful = entry.name is None and fits and self._worth(entry) > 0
        if useful and self.spill(entry):
            entry.leaving = True
            self._leaving += entry.size
        else:
            self._leave_memory(entry)

    def _finish_leaving(self, entry: Entry) -> None:
        if entry.leaving and entry.moving is None and not entry.pins:
            self._leave_memory(entry)

    def _leave_memory(self, entry: Entry, *, tell: bool = True) -> None:
        if entry.handle:
            if tell:
                self.outbox.drop(entry.handle)
            del self._handles[entry.handle]
            self._memory -= entry.size
            self._leaving -= entry.size if entry.leaving else 0
            entry.handle, entry.leaving, entry.bad = 0, False, False
        self._forget_if_gone(entry)

    def _file(self, entry: Entry, name: str) -> None:
        entry.name, entry.filed = name, entry.size
        self._files[name] = entry
        self._disk += entry.filed

    def _leave_disk(self, entry: Entry, *, delete: bool = True) -> None:
        if entry.name is not None:
            if delete:
                self.outbox.delete(entry.name)
            del self._files[entry.name]
            self._disk -= entry.filed
            entry.name = None
        self._forget_if_gone(entry)

    def _stop_spilling(self, entry: Entry) -> None:
        if entry.moving == "spill":
            entry.moving = None
            self.outbox.unspill(entry.handle)
            self._leave_disk(entry, delete=False)

    def _forget_if_gone(self, entry: Entry) -> None:
        if not entry.handle and entry.name is None and entry.node.entry is entry:
            entry.node.entry = None
            release(entry.node)

    def _make_disk_room(self, size: int) -> bool:
        """Delete the least worthy files until `size` more bytes fit."""
        limit = self.rules.disk_bytes
        if size > limit or self._disk + size <= limit:
            return size <= limit
        now = self._clock.monotonic()
        files = [entry for entry in self._files.values() if entry.moving is None]
        files.sort(key=lambda one: (worth(one, self.rules, now, _on_disk), one.used))
        for entry in files:
            if self._disk + size <= limit:
                break
            self._leave_disk(entry)
        return self._disk + size <= limit


def _stays(entry: Entry) -> bool:
    return entry.stays


def _on_disk(entry: Entry) -> bool:
    return entry.name is not None
