"""Files put in place so that a crash leaves the old state or the new one, and locks over them."""

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.progress import check_cancelled

_CHUNK_BYTES = 1 << 20
_FICLONE = 0x40049409
"""Linux's request to share a file's blocks until one side is written (btrfs, XFS)."""


def store_error(path: Path, error: OSError) -> LmxError:
    """The typed error for a store that cannot be read or written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LmxError(
            ErrorKind.INSUFFICIENT_RESOURCES,
            "The disk of the model store is full.",
            code="insufficient_disk",
        )
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"The model store at {path} cannot be used: {error.strerror or error}.",
        code="store_unusable",
    )


@contextmanager
def typed(path: Path) -> Generator[None]:
    """Turn the OSErrors of a block into `store_error`s."""
    try:
        yield
    except OSError as error:
        raise store_error(path, error) from error


def try_lock(path: Path) -> int | None:
    """Take an exclusive lock that the kernel frees when this process dies.

    Returns:
        A file descriptor whose closing frees the lock, or None when somebody holds it.
    """
    return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def brief_lock(path: Path) -> Generator[None]:
    """Hold an exclusive lock, waiting for it: only around work of milliseconds."""
    handle = None
    while handle is None:
        handle = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: Path, how: int) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
        # Whoever swept the file away between open and lock left us a lock on nothing.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except BlockingIOError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def sha256_of(
    path: Path,
    advance: Callable[[int], None] | None = None,
    cancel: threading.Event | None = None,
) -> str:
    """SHA-256 of a file in hex; `advance` is told the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            check_cancelled(cancel)
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()


def duplicate(source: Path, target: Path, cancel: threading.Event | None = None) -> None:
    """Make `target` a file with the content of `source`: shared blocks, hard link, else a copy.

    Raises:
        OSError: as the file system says. LmxError: CONFLICT `cancelled`.
    """
    if _clone(source, target) or _link(source, target):
        return
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            check_cancelled(cancel)
            writer.write(chunk)


def _clone(source: Path, target: Path) -> bool:
    """Share the blocks of `source`, where the file system can (Linux)."""
    if sys.platform != "linux":
        return False
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            cloned = False
        else:
            cloned = True
    if not cloned:
        target.unlink()
    return cloned


def _link(source: Path, target: Path) -> bool:
    """Hard-link a file of our own: others' files could change under us."""
    if source.is_symlink() or source.stat().st_uid != os.getuid():
        return False
    try:
        target.hardlink_to(source)
    except OSError:
        return False
    return True


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Force everything under `folder` to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if not path.is_symlink():
                sync_file(path)
        sync_folder(Path(root))


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` with `data`: afterwards it holds either the old or the new bytes."""
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def remove_tree(path: Path) -> None:
    """Delete a folder and what is in it; absent is fine, symlinks are not followed."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
