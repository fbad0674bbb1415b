"""Reads GGUF headers within bounds, and so is the check a file must pass before an engine sees it.

Every count, length, offset and tensor extent is compared with the file's size and with sane
limits; Python's integers do not overflow, so a declared size is always compared as declared.
"""

import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.models.gguf_layout import GgufTensor, bad_gguf, placed, shown, tensor_bytes
from opta_lmx.models.gguf_types import ARRAY, MAGIC, SCALARS, STRING, U32

__all__ = ["GgufHeader", "GgufTensor", "Scalar", "Value", "bad_gguf", "read_gguf_header"]

MAX_KEYS = 16_384
MAX_TENSORS = 65_536
MAX_HEADER_BYTES = 512 << 20
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 63
"""ggml keeps a name in 64 bytes with a zero at its end."""
MAX_STRING_BYTES = 16 << 20
MAX_KEPT_BYTES = 128 << 20
"""All kept values together: a header must not be a way to fill the memory."""
MAX_SKIPPED_STRINGS = 8 << 20
"""All strings of skipped arrays together: bounds the time a hostile file can take (about 1 s)."""
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
KEPT_ARRAY = 1024
"""Arrays up to this many elements are kept."""
_OBJECT_BYTES = 64
"""What one kept value costs in memory beyond its own bytes, rounded up."""
DEFAULT_ALIGNMENT = 32
_WINDOW = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]


class GgufHeader(msgspec.Struct, frozen=True):
    """What a GGUF file says before its data.

    `metadata` has scalars, strings and short arrays; `array_lengths` the element count of every
    array, kept or not, and `array_types` the number of its elements' type; `scalar_types` those
    of what is no array; `data_offset` is where tensor data begins.
    """

    version: int
    metadata: dict[str, Value]
    array_lengths: dict[str, int]
    array_types: dict[str, int]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_size: int
    scalar_types: dict[str, int] = {}


def read_gguf_header(path: Path, *, keep: Iterable[str] = ()) -> GgufHeader:
    """Read and validate the header of a GGUF file (version 2 or 3, little endian).

    Args:
        path: the file.
        keep: keys of arrays to keep whatever their length; others above `KEPT_ARRAY` elements
            are skipped.

    Raises:
        LmxError: INVALID_REQUEST, code `invalid_gguf`, for anything wrong with the file; the
            message says what and where.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # To open a pipe would wait for its other end.
            raise bad_gguf("it cannot be read (not a regular file)")
        with path.open("rb", buffering=0) as file:
            return _Reader(file, os.fstat(file.fileno()).st_size, frozenset(keep)).read()
    except OSError as error:
        raise bad_gguf(f"it cannot be read ({error.strerror})") from error


class _Reader:
    """A window over the file that moves forwards.

    The file is never mapped: a mapping dies by signal when another process truncates the file.
    """

    def __init__(self, file: BinaryIO, size: int, keep: frozenset[str]) -> None:
        self._file = file
        self._size = size
        self._end = min(size, MAX_HEADER_BYTES)
        self._keep = keep
        self._window = b""
        self._base = 0
        self._at = 0
        self._item = "the preamble"
        self._kept_left = MAX_KEPT_BYTES
        self._skips_left = MAX_SKIPPED_STRINGS
        self._types: dict[str, int] = {}

    def read(self) -> GgufHeader:
        """The whole header."""
        version, tensor_count, key_count = self._preamble()
        metadata: dict[str, Value] = {}
        arrays: dict[str, tuple[int, int]] = {}
        for number in range(key_count):
            self._item = f"metadata entry {number}"
            self._entry(metadata, arrays)
        alignment = _alignment(metadata)
        declared: list[GgufTensor] = []
        for number in range(tensor_count):
            self._item = f"tensor entry {number}"
            declared.append(self._tensor())
        data = -(-self._position() // alignment) * alignment
        return GgufHeader(
            version=version,
            metadata=metadata,
            array_lengths={key: count for key, (_, count) in arrays.items()},
            array_types={key: element for key, (element, _) in arrays.items()},
            tensors=placed(declared, data, alignment, self._size),
            data_offset=data,
            file_size=self._size,
            scalar_types=self._types,
        )

    def _bad(self, reason: str) -> LmxError:
        """The error for a defect of what is being read."""
        return bad_gguf(f"{reason}, in {self._item} at byte {self._position()}")

    def _position(self) -> int:
        return self._base + self._at

    def _seek(self, position: int) -> None:
        """Move to an absolute offset, reading only when it lies outside the window."""
        if position > self._end:
            raise self._bad(f"its header ends beyond {self._end} bytes")
        if position <= self._base + len(self._window):
            self._at = position - self._base
            return
        self._file.seek(position)
        self._base, self._at = position, 0
        self._window = self._file.read(_WINDOW) or b""

    def _take(self, count: int) -> bytes:
        """The next `count` bytes; the caller has bounded `count`."""
        if self._at + count > len(self._window):
            self._refill(count)
        taken = self._window[self._at : self._at + count]
        self._at += count
        return taken

    def _refill(self, count: int) -> None:
        """Begin the window at the current position and make it at least `count` bytes long."""
        start = self._position()
        if start + count > self._end:
            raise self._bad(f"its header ends beyond {self._end} bytes")
        self._file.seek(start)
        self._base, self._at = start, 0
        self._window = self._file.read(_WINDOW) or b""
        while len(self._window) < count:
            more = self._file.read(count - len(self._window))
            if not more:
                raise self._bad("it became shorter while it was read")
            self._window += more

    def _charge(self, nbytes: int) -> None:
        """Account for memory about to be kept."""
        self._kept_left -= nbytes + _OBJECT_BYTES
        if self._kept_left < 0:
            raise self._bad("its metadata takes too much memory")

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    def _preamble(self) -> tuple[int, int, int]:
        """Magic, version and the two counts."""
        if self._size < 24:
            raise bad_gguf("it is too short")
        if self._take(4) != MAGIC:
            raise bad_gguf("it does not begin with the GGUF magic")
        version = self._u32()
        if version not in (2, 3):
            swapped = version != 0 and version & 0xFFFF == 0
            endian = " (big-endian files are not supported)" if swapped else ""
            raise bad_gguf(f"version {version} is not 2 or 3{endian}")
        tensors, keys = self._u64(), self._u64()
        # The smallest tensor entry takes 32 bytes, the smallest key entry 14.
        if tensors > MAX_TENSORS or tensors * 32 > self._size:
            raise self._bad(f"it declares {tensors} tensors")
        if keys > MAX_KEYS or keys * 14 > self._size:
            raise self._bad(f"it declares {keys} metadata keys")
        return version, tensors, keys

    def _string(self, limit: int, what: str) -> bytes:
        length = self._u64()
        if length > limit:
            raise self._bad(f"a {what} declares {length} bytes")
        return self._take(length)

    def _text(self) -> str:
        raw = self._string(MAX_STRING_BYTES, "string")
        self._charge(len(raw))
        return raw.decode(errors="replace")

    def _identifier(self, limit: int, what: str) -> str:
        raw = self._string(limit, what)
        # The engine takes names as C strings: behind a zero two could differ for us alone.
        if b"\0" in raw:
            raise self._bad(f"a {what} contains a zero byte")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._bad(f"a {what} is not UTF-8") from error

    def _entry(self, metadata: dict[str, Value], arrays: dict[str, tuple[int, int]]) -> None:
        """One key with its value."""
        key = self._identifier(MAX_KEY_BYTES, "key")
        if not key:
            raise self._bad("a metadata key is empty")
        self._item = f"metadata key {shown(key)}"
        if key in metadata or key in arrays:
            raise self._bad("a metadata key appears twice")
        self._charge(len(key))
        kind = self._u32()
        # llama.cpp reads this one unseen as what it should be.
        if key == "general.alignment" and kind != U32:
            raise self._bad(f"its alignment is of value type {kind}, not {U32}")
        if kind == ARRAY:
            element, count = self._u32(), self._u64()
            values = self._array(element, count, key in self._keep or count <= KEPT_ARRAY)
            arrays[key] = element, count
            if values is not None:
                metadata[key] = values
        else:
            metadata[key] = self._scalar(kind)
            self._types[key] = kind

    def _scalar(self, kind: int) -> Scalar:
        if kind == STRING:
            return self._text()
        shape = SCALARS.get(kind)
        if shape is None:
            raise self._bad(f"value type {kind} is not known")
        (value,) = shape.unpack(self._take(shape.size))
        return value

    def _array(self, kind: int, count: int, keep: bool) -> list[Scalar] | None:
        """Read or pass over an array; no engine knows arrays of arrays."""
        if kind == STRING:
            if count * 8 > self._end - self._position():
                raise self._bad(f"an array declares {count} strings")
            if keep:
                return [self._text() for _ in range(count)]
            self._skip_strings(count)
            return None
        shape = SCALARS.get(kind)
        if shape is None:
            raise self._bad(f"array element type {kind} is not known")
        nbytes = count * shape.size
        if nbytes > self._end - self._position():
            raise self._bad(f"an array declares {count} elements")
        if not keep:
            self._seek(self._position() + nbytes)
            return None
        self._charge(count * _OBJECT_BYTES)
        return [value for (value,) in shape.iter_unpack(self._take(nbytes))]

    def _skip_strings(self, count: int) -> None:
        """Hop over strings inside the window: a few dozen ns each, for 262k-word vocabularies."""
        self._skips_left -= count
        if self._skips_left < 0:
            raise self._bad("its arrays hold too many strings")
        unpack = _U64.unpack_from
        while count:
            window, at = self._window, self._at
            last = len(window) - 8
            while count and at <= last:
                at += 8 + unpack(window, at)[0]
                count -= 1
            self._seek(self._base + at)
            if count:
                self._refill(8)

    def _tensor(self) -> GgufTensor:
        """One tensor entry, its offset still relative to the data section."""
        name = self._identifier(MAX_NAME_BYTES, "tensor name")
        self._item = f"tensor {shown(name)}"
        dimensions = self._u32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._bad(f"a tensor declares {dimensions} dimensions")
        shape = tuple(self._u64() for _ in range(dimensions))
        kind, offset = self._u32(), self._u64()
        return GgufTensor(name, shape, kind, offset, tensor_bytes(name, shape, kind))


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or value & (value - 1) or not 8 <= value <= MAX_ALIGNMENT:
        raise bad_gguf(f"its alignment, {value}, is not a sane power of two")
    return value
