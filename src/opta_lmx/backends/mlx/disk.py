"""Writes states to files and reads them back on threads, which never call MLX."""

import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.backends.statefile import (
    StateFile,
    StateFileError,
    StateHead,
    read_state,
    write_state,
)


class Written(msgspec.Struct, frozen=True):
    """A state's file is complete and takes `size` bytes; 0: it could not be made."""

    handle: int
    size: int = 0


class ReadBack(msgspec.Struct, frozen=True):
    """A file's content, whole; None: it is not there, not whole, or of something else."""

    handle: int
    file: StateFile | None = None


class _Write(msgspec.Struct, frozen=True):
    handle: int
    path: Path
    head: StateHead
    ids: bytes
    parts: Sequence[Any]


class _Read(msgspec.Struct, frozen=True):
    handle: int
    path: Path


class Disk:
    """One file at a time is written, and one is read beside it: requests wait for that one."""

    def __init__(self) -> None:
        self._writes: queue.SimpleQueue[_Write] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Read] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Written | ReadBack] = queue.SimpleQueue()
        self._threads: set[str] = set()
        self._open = 0

    @property
    def busy(self) -> bool:
        """True while `take` has something to come."""
        return self._open > 0

    def write(
        self, handle: int, path: Path, head: StateHead, ids: bytes, parts: Sequence[Any]
    ) -> None:
        """Begin to write; whoever asks keeps what `parts` look at until it is `Written`."""
        self._begin("disk-writer", self._writes)
        self._writes.put(_Write(handle, path, head, ids, parts))

    def read(self, handle: int, path: Path) -> None:
        """Begin to read."""
        self._begin("disk-reader", self._reads)
        self._reads.put(_Read(handle, path))

    def take(self, wait_s: float) -> list[Written | ReadBack]:
        """What is done, waiting up to `wait_s` for the first."""
        ready: list[Written | ReadBack] = []
        try:
            ready.append(self._done.get(timeout=wait_s) if wait_s else self._done.get_nowait())
            while True:
                ready.append(self._done.get_nowait())
        except queue.Empty:
            self._open -= len(ready)
            return ready

    def _begin(
        self, name: str, jobs: "queue.SimpleQueue[_Write] | queue.SimpleQueue[_Read]"
    ) -> None:
        self._open += 1
        if name not in self._threads:
            self._threads.add(name)
            threading.Thread(target=self._run, args=(jobs,), name=name, daemon=True).start()

    def _run(self, jobs: "queue.SimpleQueue[_Write] | queue.SimpleQueue[_Read]") -> None:
        while True:
            # Nothing of a job may stay here once it is done: its memory is the engine's to free.
            self._done.put(_perform(jobs.get()))


def _perform(job: _Write | _Read) -> Written | ReadBack:
    if isinstance(job, _Read):
        try:
            return ReadBack(job.handle, read_state(job.path))
        except (StateFileError, MemoryError):
            return ReadBack(job.handle)
    try:
        return Written(job.handle, write_state(job.path, job.head, job.ids, job.parts))
    except OSError:
        return Written(job.handle)
