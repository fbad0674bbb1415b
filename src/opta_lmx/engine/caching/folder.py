"""The files of one model's states. Every method blocks: none is for the event loop."""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from opta_lmx.backends.frames import Ready
from opta_lmx.backends.statefile import read_head
from opta_lmx.engine.prefix import Manifest, ModelKey, read_manifest
from opta_lmx.models.fingerprint import fingerprint

_SUFFIX = ".kv"


class StateHome(msgspec.Struct, frozen=True):
    """Where a model's states may lie, and what they depend on.

    `root` holds a folder for each model; `weights` is the model's file or folder; `settings`
    are those of the engine that change what it computes.
    """

    root: Path
    weights: Path
    settings: str = ""


class StateFolder:
    """A model's own folder, for one `key` of everything that its states depend on."""

    def __init__(self, root: Path, key: str) -> None:
        self.key = key
        self.path = root / key
        self._root = root

    @classmethod
    def open(cls, home: StateHome, ready: Ready) -> "StateFolder":
        """The folder for what is loaded; it is made. Raises OSError."""
        key = ModelKey(
            fingerprint=_fingerprint(home.weights),
            kv_type=home.settings,
            positions=str(ready.context),
            engine=ready.engine,
        )
        folder = cls(home.root, key.digest())
        folder.make()
        return folder

    def make(self) -> None:
        """Have the folder there, for this user alone. Raises OSError."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        os.utime(self.path)

    def manifests(self) -> list[Manifest]:
        """What lies there; files that are not whole, or nothing of ours, are deleted."""
        found: list[Manifest] = []
        for file in self._files(self.path):
            head = read_head(file) if file.suffix == _SUFFIX else None
            manifest = None if head is None else read_manifest(head.note, file.name)
            if manifest is None:
                _unlink(file)
            else:
                found.append(manifest)
        return found

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; it does not matter whether they are there."""
        for name in names:
            _unlink(self.path / name)

    def make_room(self, most: int) -> None:
        """Delete what other models left, those used longest ago first, down to `most` bytes."""
        others: list[tuple[float, int, Path]] = []
        for folder in self._files(self._root):
            if folder != self.path and folder.is_dir():
                size = sum(_size(file) for file in self._files(folder))
                others.append((_changed(folder), size, folder))
        total = sum(size for _, size, _ in others)
        for _, size, folder in sorted(others):
            if total <= most:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size

    def _files(self, folder: Path) -> list[Path]:
        try:
            return list(folder.iterdir())
        except OSError:
            return []


def _fingerprint(weights: Path) -> str:
    """A name of the weights: of all files beside each other in the model's folder."""
    files = sorted(weights.iterdir()) if weights.is_dir() else [weights]
    return fingerprint(file for file in files if file.is_file())


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
