"""The models on this machine: what is there, adding from files, deleting, conversions."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import SamplingParams
from opta_lmx.models import catalogue
from opta_lmx.models.disk import (
    brief_lock,
    duplicate,
    remove_tree,
    sha256_of,
    sync_folder,
    sync_tree,
    try_lock,
    typed,
)
from opta_lmx.models.info import read_info
from opta_lmx.models.manifest import (
    CONVERSION,
    VERSION,
    FileRecord,
    Manifest,
    ModelEntry,
    write_manifest,
)
from opta_lmx.models.names import checked_name, flat, suggested_name, valid_name
from opta_lmx.models.progress import Progress, ProgressCallback, ignore
from opta_lmx.models.selection import files_of, stored_name
from opta_lmx.models.staging import Staging

RESERVE_BYTES = 1 << 30
"""Left free on the store's disk by every download and copy."""


class Provenance(msgspec.Struct, frozen=True):
    """Where a model came from and under which terms, as in `Manifest`.

    `sampling` are its makers' recommendations where its files carry none.
    """

    source: str
    licence: str = ""
    notice: str = ""
    sampling: SamplingParams = SamplingParams()


class ModelStore:
    """A folder of models: `root/<name>/` holds the files and their record.

    Every method may block on the disk and may be called from any thread. Errors common to
    all: UNAVAILABLE `store_unusable`, INSUFFICIENT_RESOURCES `insufficient_disk`.

    Args:
        root: the folder; made when first needed.
        clock: for the time of registration.
        disk_free: free bytes of the disk a path is on; the operating system's by default.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock | None = None,
        disk_free: Callable[[Path], int] | None = None,
    ) -> None:
        self.root = root
        self._clock = clock or SystemClock()
        self._disk_free = disk_free or _disk_free
        self._staging = Staging(root / ".tmp")

    def sweep(self) -> int:
        """Prepare the store at start: create it, check that it can be written, clear leftovers.

        Returns:
            How many unfinished imports and conversions of dead processes were deleted.
        """
        with typed(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with brief_lock(self._lock_path("+catalogue")):
                return self._staging.sweep()

    def list(self) -> "list[ModelEntry]":
        """All models by name; unusable ones carry a `broken` reason."""
        return catalogue.entries(self.root)

    def get(self, name: str) -> ModelEntry:
        """One usable model. LmxError: MODEL_NOT_FOUND; CONFLICT `model_broken`."""
        return catalogue.entry(self.root, name)

    def find(self, name: str) -> ModelEntry | None:
        """As `get`, but None for a name that is not there."""
        try:
            return self.get(name)
        except LmxError as error:
            if error.kind is ErrorKind.MODEL_NOT_FOUND:
                return None
            raise

    def partial_dir(self, name: str) -> Path:
        """Where an unfinished pull of `name` keeps its bytes from one run to the next."""
        return self.root / ".partial" / flat(checked_name(name))

    @contextmanager
    def claim(self, name: str) -> Generator[None]:
        """Be the only one, in any process, who makes or deletes `name`.

        Raises:
            LmxError: INVALID_REQUEST `invalid_model_name`; CONFLICT `model_busy`.
        """
        with typed(self.root):
            handle = try_lock(self._lock_path(flat(checked_name(name))))
        if handle is None:
            raise LmxError(
                ErrorKind.CONFLICT,
                f"Another operation on the model '{name}' is under way.",
                code="model_busy",
                param="model",
            )
        try:
            yield
        finally:
            os.close(handle)

    @contextmanager
    def temporary(self) -> Generator[Path]:
        """A folder on the store's disk, deleted at the end of the block or by a later sweep."""
        with typed(self.root), self._staging.folder() as folder:
            yield folder

    def refuse_clash(self, name: str) -> None:
        """Raise LmxError(CONFLICT, code `model_exists`) when `name` cannot be taken."""
        with typed(self.root):
            known = catalogue.clash(self.root, name)
        if known is None:
            return
        same = known == name
        raise LmxError(
            ErrorKind.CONFLICT,
            f"The model '{name}' is already there."
            if same
            else f"The name '{name}' is too close to that of '{known}'.",
            code="model_exists",
            param="model",
        )

    def add(
        self,
        source: Path,
        name: str | None = None,
        *,
        progress: ProgressCallback = ignore,
        cancel: threading.Event | None = None,
    ) -> ModelEntry:
        """Register a `.gguf` file (with its parts) or a model folder from elsewhere.

        Blocks are shared or the file is linked where the file system can; else copied.

        Raises:
            LmxError: whatever `read_info` refuses; CONFLICT `model_exists`, `model_busy` or
                `cancelled`; INVALID_REQUEST `invalid_model_name`.
        """
        source = source.expanduser().resolve()
        size = read_info(source).size_bytes
        name = checked_name(name) if name else _name_for(source)
        with self.claim(name), typed(self.root):
            self.refuse_clash(name)
            files = files_of(source)
            if files[0].stat().st_dev != self._device():  # otherwise it may take no space
                self.refuse_full_disk(size)
            with self.temporary() as folder:
                draft = folder / "model"
                draft.mkdir()
                base = source if source.is_dir() else source.parent
                pairs = [(path, stored_name(str(path.relative_to(base)))) for path in files]
                records = self._copy(name, pairs, draft, progress, cancel)
                main = "" if source.is_dir() else files[0].name
                entry = self.publish(name, draft, main, records, Provenance(f"file:{source}"))
        progress(Progress(name, "", size, size, "done"))
        return entry

    def publish(
        self,
        name: str,
        draft: Path,
        main: str,
        files: "list[FileRecord]",
        provenance: Provenance,
    ) -> ModelEntry:
        """Validate a finished folder inside the store and make it the model `name` in one step.

        The caller holds `claim(name)`. `main` names the GGUF file, "" for a folder.
        """
        info = read_info(draft / main if main else draft)
        recommended = info.sampling.resolve(provenance.sampling)
        info = msgspec.structs.replace(info, sampling=recommended)
        manifest = Manifest(
            version=VERSION,
            name=name,
            format=info.format,
            main=main,
            files=tuple(files),
            source=provenance.source,
            created_ms=self._clock.now_ms(),
            info=msgspec.Raw(msgspec.json.encode(info)),
            licence=provenance.licence,
            notice=provenance.notice,
        )
        with typed(self.root):
            write_manifest(draft, manifest)
            sync_tree(draft)
            with brief_lock(self._lock_path("+catalogue")):
                self.refuse_clash(name)
                (target := self.root / name).parent.mkdir(parents=True, exist_ok=True)
                draft.rename(target)
                sync_folder(target.parent)
        return self.get(name)

    def delete(self, name: str) -> int:
        """Delete a model, broken or not, its conversion and any unfinished pull of it.

        A name of which there is an unfinished pull only has that deleted.

        Returns:
            The bytes that all of it held.

        Raises:
            LmxError: MODEL_NOT_FOUND; CONFLICT `model_busy`.
        """
        if not any(entry.name == name for entry in self.list()):
            return self._delete_partial(name)
        with self.claim(name), self.temporary() as grave:
            folder = self.root / name
            if not os.path.lexists(folder):  # somebody else was first
                raise catalogue.not_found(name)
            freed = _tree_bytes(folder) + _tree_bytes(self.partial_dir(name))
            # Else its group's folder could go just when a sibling is to be put there.
            with brief_lock(self._lock_path("+catalogue")):
                # First out of sight in one step, so that a crash leaves no half of a model.
                folder.rename(grave / "model")
                with contextlib.suppress(OSError):  # others are in it, or it is the store
                    folder.parent.rmdir()
            remove_tree(self.partial_dir(name))
        return freed

    def _delete_partial(self, name: str) -> int:
        partial = self.partial_dir(name) if valid_name(name) else None
        if partial is None or not partial.is_dir():
            raise catalogue.not_found(name)
        with self.claim(name), typed(self.root):
            freed = _tree_bytes(partial)
            remove_tree(partial)
        return freed

    def conversion_dir(self, name: str) -> Path:
        """Where the MLX conversion of a GGUF model lies once finished."""
        return self.root / checked_name(name) / CONVERSION

    def has_conversion(self, name: str) -> bool:
        """Whether the conversion is there."""
        return (self.conversion_dir(name) / "config.json").is_file()

    def begin_conversion(self, name: str) -> Path:
        """An empty folder to convert into; ended by `finish_conversion` or `abandon`."""
        self.get(name)
        with typed(self.root):
            return self._staging.new()

    def finish_conversion(self, name: str, tmp: Path) -> Path:
        """Validate the converted folder and put it in place; return its final path.

        Where somebody else was first, theirs stays: it may be in use already.

        Raises:
            LmxError: what `read_info` refuses; MODEL_NOT_FOUND when the model went meanwhile.
                `tmp` is deleted in every case.
        """
        try:
            read_info(tmp)
            with typed(self.root):
                sync_tree(tmp)
                # The claim, but waited for: the work is done, and must not be lost.
                with brief_lock(self._lock_path(flat(checked_name(name)))):
                    self.get(name)
                    target = self.conversion_dir(name)
                    if not self.has_conversion(name):
                        remove_tree(target)
                        tmp.rename(target)
                        sync_folder(target.parent)
        finally:
            self.abandon(tmp)
        return target

    def abandon(self, tmp: Path) -> None:
        """Delete a temporary folder of `begin_conversion`."""
        with typed(self.root):
            self._staging.release(tmp)

    def free_bytes(self) -> int:
        """Free bytes on the store's disk."""
        with typed(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            return self._disk_free(self.root)

    def refuse_full_disk(self, needed: int) -> None:
        """Raise INSUFFICIENT_RESOURCES `insufficient_disk` unless `needed` bytes fit."""
        free = self.free_bytes()
        if needed + RESERVE_BYTES > free:
            raise LmxError(
                ErrorKind.INSUFFICIENT_RESOURCES,
                f"The model needs {needed / 1e9:.1f} GB of disk and {RESERVE_BYTES / 1e9:.1f} GB "
                f"are kept free, but only {free / 1e9:.1f} GB are left.",
                code="insufficient_disk",
            )

    def _copy(
        self,
        name: str,
        files: "list[tuple[Path, str]]",
        draft: Path,
        progress: ProgressCallback,
        cancel: threading.Event | None,
    ) -> "list[FileRecord]":
        """Bring `files` into `draft` under their new names and hash them there."""
        total = sum(path.stat().st_size for path, _ in files)
        done = 0
        records: list[FileRecord] = []
        for path, file_name in files:
            target = draft / file_name
            duplicate(path, target, cancel)

            def advance(count: int, file: str = file_name) -> None:
                nonlocal done
                done += count
                progress(Progress(name, file, done, total, "verifying"))

            digest = sha256_of(target, advance, cancel)
            records.append(FileRecord(file_name, target.stat().st_size, digest))
        return records

    def _lock_path(self, name: str) -> Path:
        return self.root / ".locks" / f"{name}.lock"

    def _device(self) -> int:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root.stat().st_dev


def _name_for(source: Path) -> str:
    """A name from the file's or folder's own, without the part number of a split file."""
    if source.is_dir():
        return suggested_name(source.name)
    return suggested_name(source.stem.removesuffix("-00001-of-" + source.stem[-5:]))


def _disk_free(path: Path) -> int:
    return shutil.disk_usage(path).free


def _tree_bytes(folder: Path) -> int:
    if folder.is_symlink():  # only the link goes
        return 0
    return sum(
        (Path(root) / name).lstat().st_size for root, _, names in os.walk(folder) for name in names
    )
