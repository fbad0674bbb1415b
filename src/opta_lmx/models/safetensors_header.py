"""Reads safetensors headers within bounds: 8 bytes of length, JSON, then one gapless data block."""

import math
import os
import struct
from pathlib import Path

import msgspec

from opta_lmx.core.errors import LmxError, invalid

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format's own reader."""
MAX_TENSORS = 1_000_000
_LENGTH = struct.Struct("<Q")
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, by the format's name of the type."""


class SafeTensor(msgspec.Struct, frozen=True):
    """One tensor: element type, shape (slowest dimension first), bytes from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """How many stored elements (packed weights count as the words they are packed in)."""
        return math.prod(self.shape)


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """Tensors by name, the file's own metadata, and its size in bytes."""

    tensors: dict[str, SafeTensor]
    metadata: dict[str, str]
    file_size: int


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def bad_safetensors(path: Path, reason: str) -> LmxError:
    """The error every defect of a safetensors file becomes."""
    return invalid(
        f"{path.name} is not a usable safetensors file: {reason}.", code="invalid_safetensors"
    )


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Read and validate the header of a safetensors file.

    Raises:
        LmxError: INVALID_REQUEST, code `invalid_safetensors`, for anything wrong with it.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            if len(head) < 8:
                raise bad_safetensors(path, "it is too short")
            (length,) = _LENGTH.unpack(head)
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise bad_safetensors(path, f"its header declares {length} bytes")
            text = file.read(length)
    except OSError as error:
        raise bad_safetensors(path, f"it cannot be read ({error.strerror})") from error
    entries, metadata = _decode(path, text)
    data = 8 + length
    tensors = {name: _tensor(path, entry, data) for name, entry in entries.items()}
    _check_cover(path, list(tensors.values()), data, size)
    return SafetensorsHeader(tensors, metadata, size)


def _decode(path: Path, text: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        own = fields.pop("__metadata__", None)
        metadata = msgspec.json.decode(own, type=dict[str, str]) if own is not None else {}
        if len(fields) > MAX_TENSORS:
            raise bad_safetensors(path, f"it declares {len(fields)} tensors")
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in fields.items()}
        return entries, metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_safetensors(path, "its header is not the JSON it should be") from error


def _tensor(path: Path, entry: _Entry, data: int) -> SafeTensor:
    """One entry with its extent checked against its type and shape."""
    bits = _BITS.get(entry.dtype)
    if bits is None:
        raise bad_safetensors(path, "a tensor has an unknown type")
    begin, end = entry.data_offsets
    if len(entry.shape) > 32 or any(side < 0 for side in entry.shape) or not 0 <= begin <= end:
        raise bad_safetensors(path, "a tensor's shape or offsets make no sense")
    if math.prod(entry.shape) * bits != (end - begin) * 8:
        raise bad_safetensors(path, "a tensor's offsets do not fit its shape")
    return SafeTensor(entry.dtype, tuple(entry.shape), data + begin, end - begin)


def _check_cover(path: Path, tensors: list[SafeTensor], data: int, size: int) -> None:
    """The tensors must follow one another without gap or overlap up to the file's end."""
    at = data
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != at:
            raise bad_safetensors(path, "its tensors leave gaps or overlap")
        at += tensor.nbytes
    if at > size:
        raise bad_safetensors(path, "it is shorter than its tensors, probably truncated")
    if at < size:
        raise bad_safetensors(path, "it is longer than its tensors")
