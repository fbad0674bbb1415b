"""The names of the stored models, kept in memory and read again when the store changes."""

import threading
from pathlib import Path

import msgspec

from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.models.catalogue import describe, groups, model_folders
from opta_lmx.models.disk import typed
from opta_lmx.models.manifest import MANIFEST
from opta_lmx.models.matching import Known
from opta_lmx.models.store import ModelStore

_UNSETTLED_MS = 2_000
"""A folder changed this lately is read again: its time may not show the next change."""


class _Seen(msgspec.Struct, frozen=True):
    """A model's record as last read; `stamp` tells whether it was written since."""

    stamp: tuple[int, int, int]
    known: Known


class ModelIndex:
    """What may be asked for by name. Callable from any thread.

    Models come and go by renames within the store's folder and its groups (`org/`), by this
    process or another: the times of those few folders tell whether anything did, so that a
    look-up costs a handful of `stat` calls and reads no file.

    Args:
        store: the models.
        clock: wall time, compared with that of the file system.
    """

    def __init__(self, store: ModelStore, clock: Clock | None = None) -> None:
        self._root = store.root
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._folders: dict[Path, int] = {}
        self._known: tuple[Known, ...] = ()
        self._settled = False
        self.version = 0

    def known(self) -> tuple[Known, ...]:
        """Every model of the store, broken ones included; `version` grows when they change.

        Raises:
            LmxError: UNAVAILABLE `store_unusable`.
        """
        with self._lock, typed(self._root):
            if not self._settled or _times(list(self._folders)) != self._folders:
                self._read()
            return self._known

    def _read(self) -> None:
        """Walk the folders; only records that were written since are opened."""
        now_ms = self._clock.now_ms()
        before = _times([self._root, *groups(self._root)])
        found = list(model_folders(self._root))
        self._seen = {name: self._look(name, folder) for name, folder in found}
        known = tuple(seen.known for seen in self._seen.values())
        if known != self._known:
            self._known = known
            self.version += 1
        newest_ms = max(before.values()) // 1_000_000
        self._settled = newest_ms + _UNSETTLED_MS < now_ms and _times(list(before)) == before
        self._folders = before

    def _look(self, name: str, folder: Path) -> _Seen:
        stamp = _stamp(folder / MANIFEST)
        seen = self._seen.get(name)
        if seen is not None and seen.stamp == stamp:
            return seen
        entry = describe(name, folder)
        info = entry.info
        return _Seen(stamp, Known(name, info.quantisation, entry.format, info.kind))


def _times(folders: list[Path]) -> dict[Path, int]:
    """When each folder last changed, in ns; 0 for one that is gone."""
    times: dict[Path, int] = {}
    for folder in folders:
        try:
            times[folder] = folder.stat().st_mtime_ns
        except FileNotFoundError:
            times[folder] = 0
    return times


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
