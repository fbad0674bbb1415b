"""Where the tensors of a GGUF file lie: sizes from shapes and types, and that all of it fits."""

import math
from itertools import pairwise

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.models.gguf_types import TENSOR_TYPES

_SHOWN = 64


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


def bad_gguf(reason: str) -> LmxError:
    """The error every defect of a GGUF file becomes."""
    return invalid(f"Not a usable GGUF file: {reason}.", code="invalid_gguf")


def shown(text: str) -> str:
    """A name from a file, safe and short enough for a message."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def tensor_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    """Size of the data of tensor `name`, from its shape and type.

    Raises:
        LmxError: `invalid_gguf`; the type is not known, or the shape makes no sense for it.
    """
    layout = TENSOR_TYPES.get(kind)
    if layout is None:
        raise bad_gguf(f"tensor type {kind} of {shown(name)} is not known")
    elements = math.prod(shape)
    if elements == 0 or elements > 1 << 62:
        raise bad_gguf(f"tensor {shown(name)} declares {elements} elements")
    if shape[0] % layout.block:
        raise bad_gguf(
            f"a row of {shape[0]} in tensor {shown(name)} does not divide into {layout.name} blocks"
        )
    return elements // layout.block * layout.nbytes


def placed(
    declared: list[GgufTensor], data: int, alignment: int, size: int
) -> tuple[GgufTensor, ...]:
    """Turn offsets absolute; check names, alignment, extents and overlap.

    Args:
        declared: tensors whose offsets count from the data section.
        data: where that section begins.
        alignment: every offset is a multiple of it.
        size: of the file, in bytes.

    Raises:
        LmxError: `invalid_gguf`, naming the tensor.
    """
    names: set[str] = set()
    moved: list[GgufTensor] = []
    for tensor in declared:
        start = data + tensor.offset
        if tensor.name in names:
            raise bad_gguf(f"two tensors have the same name, {shown(tensor.name)}")
        if tensor.offset % alignment:
            raise bad_gguf(
                f"the offset {tensor.offset} of tensor {shown(tensor.name)} is not aligned "
                f"to {alignment} bytes"
            )
        if start + tensor.nbytes > size:
            raise bad_gguf(
                f"tensor {shown(tensor.name)} ends at byte {start + tensor.nbytes}, outside the "
                f"file of {size} bytes, which may be truncated"
            )
        names.add(tensor.name)
        moved.append(msgspec.structs.replace(tensor, offset=start))
    for before, after in pairwise(sorted(moved, key=lambda tensor: tensor.offset)):
        if before.offset + before.nbytes > after.offset:
            pair = f"{shown(before.name)} and {shown(after.name)}"
            raise bad_gguf(f"two tensors overlap at byte {after.offset}, {pair}")
    return tuple(moved)
