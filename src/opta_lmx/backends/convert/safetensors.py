"""Writes one safetensors file from start to end, a piece of a tensor at a time."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, Self

import numpy as np

from opta_lmx.backends.convert.source import Array

Dtype = Literal["f32", "f16", "bf16"]
_BYTES: dict[Dtype, int] = {"f32": 4, "f16": 2, "bf16": 2}


class SafetensorsWriter:
    """A file whose tensors are all of one dtype; they must be written in the order declared.

    A context manager: leaving it checks that nothing was left out (ValueError). `size` is the
    whole file's, in bytes.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: Dtype) -> None:
        """Create the file and write its header."""
        self._dtype: Dtype = dtype
        header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
        end = 0
        for name, shape in shapes.items():
            begin, end = end, end + math.prod(shape) * _BYTES[dtype]
            header[name] = {
                "dtype": dtype.upper(),
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.size = 8 + len(text) + end
        self._file: BinaryIO = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, pieces: Iterable[Array]) -> None:
        """Append the pieces of the next tensor, given as float32."""
        for piece in pieces:
            self._file.write(_encoded(piece, self._dtype))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        written = self._file.tell()
        self._file.close()
        if kind is None and written != self.size:
            raise ValueError(f"{written} bytes of weights written of {self.size}")


def _encoded(piece: Array, dtype: Dtype) -> bytes:
    values = np.ascontiguousarray(piece, np.float32)
    if dtype == "f32":
        return values.tobytes()
    if dtype == "f16":
        return values.astype(np.float16).tobytes()
    # bfloat16 is the upper half of a float32, rounded to even.
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
