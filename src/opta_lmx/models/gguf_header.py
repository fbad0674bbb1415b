"""Reads GGUF headers within bounds, and so is the check a file must pass before an engine sees it.

Every count, length, offset and tensor extent is compared with the file's size and with sane
limits; Python's integers do not overflow, so a declared size is always compared as declared.
"""

import math
import os
import struct
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.models.gguf_types import ARRAY, MAGIC, SCALARS, STRING, TENSOR_TYPES

MAX_KEYS = 16_384
MAX_TENSORS = 65_536
MAX_HEADER_BYTES = 512 << 20
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 255
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


class GgufTensor(msgspec.Struct, frozen=True):
    """One tensor: `shape` fastest dimension first, `offset` in bytes from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int

    @property
    def type_name(self) -> str:
        """The ggml name of the storage type, such as `Q4_K`."""
        return TENSOR_TYPES[self.type].name

    @property
    def elements(self) -> int:
        """How many weights the tensor holds."""
        return math.prod(self.shape)


class GgufHeader(msgspec.Struct, frozen=True):
    """What a GGUF file says before its data.

    `metadata` has scalars, strings and short arrays; `array_lengths` the element count of every
    array, kept or not; `data_offset` is where tensor data begins.
    """

    version: int
    metadata: dict[str, Value]
    array_lengths: dict[str, int]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_size: int


def bad_gguf(reason: str) -> LmxError:
    """The error every defect of a GGUF file becomes."""
    return invalid(f"Not a usable GGUF file: {reason}.", code="invalid_gguf")


def read_gguf_header(path: Path, *, keep: Iterable[str] = ()) -> GgufHeader:
    """Read and validate the header of a GGUF file (version 2 or 3, little endian).

    Args:
        path: the file.
        keep: keys of arrays to keep whatever their length; others above `KEPT_ARRAY` elements
            are skipped.

    Raises:
        LmxError: INVALID_REQUEST, code `invalid_gguf`, for anything wrong with the file.
    """
    try:
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
        self._kept_left = MAX_KEPT_BYTES
        self._skips_left = MAX_SKIPPED_STRINGS

    def read(self) -> GgufHeader:
        """The whole header."""
        version, tensor_count, key_count = self._preamble()
        metadata: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(key_count):
            self._entry(metadata, lengths)
        alignment = _alignment(metadata)
        declared = [self._tensor() for _ in range(tensor_count)]
        data = -(-self._position() // alignment) * alignment
        tensors = _placed(declared, data, alignment, self._size)
        return GgufHeader(version, metadata, lengths, tensors, data, self._size)

    def _position(self) -> int:
        return self._base + self._at

    def _seek(self, position: int) -> None:
        """Move to an absolute offset, reading only when it lies outside the window."""
        if position > self._end:
            raise bad_gguf(f"its header ends beyond {self._end} bytes")
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
            raise bad_gguf(f"its header ends beyond {self._end} bytes")
        self._file.seek(start)
        self._base, self._at = start, 0
        self._window = self._file.read(_WINDOW) or b""
        while len(self._window) < count:
            more = self._file.read(count - len(self._window))
            if not more:
                raise bad_gguf("it became shorter while it was read")
            self._window += more

    def _charge(self, nbytes: int) -> None:
        """Account for memory about to be kept."""
        self._kept_left -= nbytes + _OBJECT_BYTES
        if self._kept_left < 0:
            raise bad_gguf("its metadata takes too much memory")

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
            endian = " (big-endian files are not supported)" if version & 0xFFFF == 0 else ""
            raise bad_gguf(f"version {version} is not 2 or 3{endian}")
        tensors, keys = self._u64(), self._u64()
        # The smallest tensor entry takes 32 bytes, the smallest key entry 14.
        if tensors > MAX_TENSORS or tensors * 32 > self._size:
            raise bad_gguf(f"it declares {tensors} tensors")
        if keys > MAX_KEYS or keys * 14 > self._size:
            raise bad_gguf(f"it declares {keys} metadata keys")
        return version, tensors, keys

    def _string(self, limit: int, what: str) -> bytes:
        length = self._u64()
        if length > limit:
            raise bad_gguf(f"a {what} declares {length} bytes")
        return self._take(length)

    def _text(self) -> str:
        raw = self._string(MAX_STRING_BYTES, "string")
        self._charge(len(raw))
        return raw.decode(errors="replace")

    def _identifier(self, limit: int, what: str) -> str:
        try:
            return self._string(limit, what).decode()
        except UnicodeDecodeError as error:
            raise bad_gguf(f"a {what} is not UTF-8") from error

    def _entry(self, metadata: dict[str, Value], lengths: dict[str, int]) -> None:
        """One key with its value."""
        key = self._identifier(MAX_KEY_BYTES, "key")
        if key in metadata or key in lengths:
            raise bad_gguf("a metadata key appears twice")
        self._charge(len(key))
        kind = self._u32()
        if kind == ARRAY:
            element, count = self._u32(), self._u64()
            values = self._array(element, count, key in self._keep or count <= KEPT_ARRAY)
            lengths[key] = count
            if values is not None:
                metadata[key] = values
        else:
            metadata[key] = self._scalar(kind)

    def _scalar(self, kind: int) -> Scalar:
        if kind == STRING:
            return self._text()
        shape = SCALARS.get(kind)
        if shape is None:
            raise bad_gguf(f"value type {kind} is not known")
        (value,) = shape.unpack(self._take(shape.size))
        return value

    def _array(self, kind: int, count: int, keep: bool) -> list[Scalar] | None:
        """Read or pass over an array; arrays of arrays exist in no engine."""
        if kind == STRING:
            if count * 8 > self._end - self._position():
                raise bad_gguf(f"an array declares {count} strings")
            if keep:
                return [self._text() for _ in range(count)]
            self._skip_strings(count)
            return None
        shape = SCALARS.get(kind)
        if shape is None:
            raise bad_gguf(f"array element type {kind} is not known")
        nbytes = count * shape.size
        if nbytes > self._end - self._position():
            raise bad_gguf(f"an array declares {count} elements")
        if not keep:
            self._seek(self._position() + nbytes)
            return None
        self._charge(count * _OBJECT_BYTES)
        return [value for (value,) in shape.iter_unpack(self._take(nbytes))]

    def _skip_strings(self, count: int) -> None:
        """Hop over strings inside the window: a few dozen ns each, for 262k-word vocabularies."""
        self._skips_left -= count
        if self._skips_left < 0:
            raise bad_gguf("its arrays hold too many strings")
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
        dimensions = self._u32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise bad_gguf(f"a tensor declares {dimensions} dimensions")
        shape = tuple(self._u64() for _ in range(dimensions))
        kind = self._u32()
        return GgufTensor(name, shape, kind, self._u64(), _tensor_bytes(shape, kind))


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    power_of_two = isinstance(value, int) and value > 0 and value & (value - 1) == 0
    if not power_of_two or not isinstance(value, int) or not 8 <= value <= MAX_ALIGNMENT:
        raise bad_gguf("its alignment is not a sane power of two")
    return value


def _tensor_bytes(shape: tuple[int, ...], kind: int) -> int:
    """Size of a tensor's data, from its shape and type."""
    layout = TENSOR_TYPES.get(kind)
    if layout is None:
        raise bad_gguf(f"tensor type {kind} is not known")
    elements = math.prod(shape)
    if elements == 0 or elements > 1 << 62:
        raise bad_gguf(f"a tensor declares {elements} elements")
    if shape[0] % layout.block:
        raise bad_gguf(f"a row of {shape[0]} does not divide into {layout.name} blocks")
    return elements // layout.block * layout.nbytes


def _placed(
    declared: list[GgufTensor], data: int, alignment: int, size: int
) -> tuple[GgufTensor, ...]:
    """Turn offsets absolute; check alignment, extents, overlap and that names are unique."""
    if len({tensor.name for tensor in declared}) != len(declared):
        raise bad_gguf("two tensors have the same name")
    placed: list[GgufTensor] = []
    for tensor in declared:
        if tensor.offset % alignment:
            raise bad_gguf("a tensor's offset is not aligned")
        start = data + tensor.offset
        if start + tensor.nbytes > size:
            raise bad_gguf("a tensor lies outside the file, which may be truncated")
        placed.append(msgspec.structs.replace(tensor, offset=start))
    for before, after in pairwise(sorted(placed, key=lambda tensor: tensor.offset)):
        if before.offset + before.nbytes > after.offset:
            raise bad_gguf("two tensors overlap")
    return tuple(placed)
