"""Temporary folders inside the store that are swept once their process is gone."""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from opta_lmx.core.ids import random_id
from opta_lmx.models.disk import remove_tree, try_lock

_LOCK = ".lock"


class Staging:
    """Hands out folders, each held by a lock beside it that dies with the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[Path, int] = {}
        self._mutex = threading.Lock()

    def new(self) -> Path:
        """An empty folder that no other process will sweep while this one lives."""
        while True:
            path = self._folder / random_id(length=16)
            handle = try_lock(path.with_name(path.name + _LOCK))
            if handle is not None:
                break
        with self._mutex:
            self._held[path] = handle
        path.mkdir()
        return path

    def release(self, path: Path) -> None:
        """Delete the folder, unless it was moved away, and give up its lock."""
        with self._mutex:
            handle = self._held.pop(path, None)
        remove_tree(path)
        path.with_name(path.name + _LOCK).unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)

    @contextmanager
    def folder(self) -> Generator[Path]:
        """A folder that exists for the length of a block."""
        path = self.new()
        try:
            yield path
        finally:
            self.release(path)

    def sweep(self) -> int:
        """Delete the folders of processes that are gone; return how many there were."""
        if not self._folder.is_dir():
            return 0
        names = {path.name.removesuffix(_LOCK) for path in self._folder.iterdir()}
        return sum(self._sweep_one(self._folder / name) for name in sorted(names))

    def _sweep_one(self, path: Path) -> bool:
        lock = path.with_name(path.name + _LOCK)
        handle = try_lock(lock)
        if handle is None:
            return False
        try:
            remove_tree(path)
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)
        return True
