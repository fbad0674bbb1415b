"""The file of one stored state: whole and unchanged, or not used. Pure but for the file itself.

A file is `MAGIC`, the head's length, the head, the token ids, the arrays' bytes, and a BLAKE2b
digest of all that. It is written beside its place, brought to the disk, and renamed, so that a
crash leaves the old file or none; what a crash or a bad disk leaves anyway, the digest tells.
"""

import contextlib
import hashlib
import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

LAYOUT = 1
MAGIC = b"LMXKV\r\n\0"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_PIECE = 8 * 1024 * 1024
_MOST_HEAD = 64 * 1024 * 1024
_DRAFT = ".part"


class StateFileError(Exception):
    """The file is not there, not whole, or not of this kind."""


class ArrayOf(msgspec.Struct, frozen=True, array_like=True):
    """One array: the name of its type, the bytes of one element, and its shape."""

    dtype: str
    item: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of the whole array."""
        return self.item * math.prod(self.shape)


class StateHead(msgspec.Struct, frozen=True):
    """What a file says about its state.

    `tokens` are covered, `ids_hash` is `hash_ids` of them; `engine` names what wrote it and
    `shape` the form of its caches, both to be equal where it is read; `note` is the front's own.
    `structure` and `arrays` are how the caches are made again.
    """

    tokens: int
    ids_hash: str
    engine: str
    shape: str
    structure: Any
    arrays: tuple[ArrayOf, ...]
    note: bytes = b""
    layout: int = LAYOUT


class StateFile(msgspec.Struct, frozen=True):
    """A file that was read: its head, the packed token ids, and each array's bytes."""

    head: StateHead
    ids: bytes
    parts: tuple[memoryview, ...]


def hash_ids(ids: bytes) -> str:
    """A hash of packed token ids, 32 hexadecimal digits."""
    return hashlib.blake2b(ids, digest_size=16).hexdigest()


def write_state(path: Path, head: StateHead, ids: bytes, parts: Sequence[Any]) -> int:
    """Write a state; return the file's bytes.

    Args:
        path: where it is to be; its folder exists.
        head: describes `ids` and `parts`.
        ids: packed token ids, 4 bytes each.
        parts: the arrays' bytes, anything with a flat buffer.

    Raises:
        OSError: it cannot be written; nothing new is left at `path`.
    """
    draft = path.with_name(path.name + _DRAFT)
    encoded = msgspec.msgpack.encode(head)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            size = _write_all(file, (MAGIC, _LENGTH.pack(len(encoded)), encoded, ids, *parts))
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return size


def read_state(path: Path) -> StateFile:
    """Read a whole file. Raises StateFileError."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise StateFileError(error.strerror or "it cannot be read") from error
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != bytes(digest):
        raise StateFileError("its checksum is wrong")
    head, at = _head(body)
    ids = bytes(body[at : at + head.tokens * 4])
    if hash_ids(ids) != head.ids_hash:
        raise StateFileError("its token ids are not those it names")
    at += len(ids)
    parts: list[memoryview] = []
    for array in head.arrays:
        parts.append(body[at : at + array.nbytes])
        at += array.nbytes
    return StateFile(head, ids, tuple(parts))


def read_head(path: Path) -> StateHead | None:
    """The head of a file that has the right length; None when there is no such file.

    The arrays are not looked at: whether they are whole is known after `read_state`.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(len(MAGIC) + _LENGTH.size)
            length = _head_length(memoryview(start))
            data = memoryview(start + file.read(length))
        return _head(data, size - _DIGEST_BYTES)[0]
    except (OSError, StateFileError):
        return None


def _write_all(file: BinaryIO, parts: Sequence[Any]) -> int:
    digest, size = hashlib.blake2b(digest_size=_DIGEST_BYTES), 0
    for piece in _pieces(parts):
        digest.update(piece)
        size += _write(file, piece)
    return size + _write(file, memoryview(digest.digest()))


def _write(file: BinaryIO, piece: memoryview) -> int:
    done = 0
    while done < len(piece):  # a raw file may take less than it is given
        done += file.write(piece[done:])
    return done


def _pieces(parts: Sequence[Any]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]


def _head_length(data: memoryview) -> int:
    if len(data) < len(MAGIC) + _LENGTH.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise StateFileError("it is not the file of a state")
    length = int(_LENGTH.unpack_from(data, len(MAGIC))[0])
    if length > _MOST_HEAD:
        raise StateFileError("its head is too long")
    return length


def _head(data: memoryview, size: int | None = None) -> tuple[StateHead, int]:
    """The head and where it ends. `size` is the body's length where `data` is not all of it."""
    start = len(MAGIC) + _LENGTH.size
    end = start + _head_length(data)
    try:
        head = msgspec.msgpack.decode(data[start:end], type=StateHead)
    except msgspec.DecodeError as error:
        raise StateFileError("its head cannot be read") from error
    whole = end + head.tokens * 4 + sum(array.nbytes for array in head.arrays)
    if head.layout != LAYOUT or whole != (len(data) if size is None else size):
        raise StateFileError("its length or layout is wrong")
    return head, end


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk too; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
