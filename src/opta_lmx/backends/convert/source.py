"""A GGUF file as the converter reads it: typed metadata, and tensors dequantised piece by piece."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (the `gguf` package is only partly typed)

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from opta_lmx.backends.convert.errors import ConvertError, unsupported
from opta_lmx.models.gguf_header import GgufTensor, read_gguf_header

Array = np.ndarray[Any, np.dtype[Any]]

TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TYPES = "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"

_PIECE_ELEMENTS = 4 << 20
"""Weights dequantised at a time: 16 MiB as float32, whatever the tensor's size."""


class GgufSource:
    """An open GGUF file. Close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises LmxError for a file that is not sound GGUF."""
        header = read_gguf_header(path, keep=(TOKENS, SCORES, TYPES, MERGES))
        self._metadata = header.metadata
        self.tensors = {tensor.name: tensor for tensor in header.tensors}
        self._file: BinaryIO = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def architecture(self) -> str:
        """`general.architecture`."""
        return self.text("general.architecture")

    def has(self, key: str) -> bool:
        """Whether the header holds a value under `key`."""
        return key in self._metadata

    def text(self, key: str, default: str | None = None) -> str:
        """A string value; `default` when absent. Raises ConvertError when neither is there."""
        value = self._metadata.get(key, default)
        if not isinstance(value, str):
            raise _missing(key)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer value, as `text`."""
        value = self._metadata.get(key, default)
        if not isinstance(value, int):
            raise _missing(key)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, as `text`; float32 noise is rounded away (`1e-05`, not `9.99999974e-06`)."""
        value = self._metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _missing(key)
        return float(f"{value:.7g}")

    def flag(self, key: str, default: bool) -> bool:
        """A boolean value; `default` when absent."""
        return bool(self._metadata.get(key, default))

    def texts(self, key: str) -> list[str]:
        """An array of strings. Raises ConvertError when absent."""
        return cast("list[str]", self._array(key))

    def numbers(self, key: str) -> list[float]:
        """An array of numbers. Raises ConvertError when absent."""
        return cast("list[float]", self._array(key))

    def rows(self, name: str, multiple: int = 1) -> Iterator[Array]:
        """Yield a tensor as float32 pieces [rows, columns], in order, each of bounded size.

        Args:
            name: the tensor.
            multiple: rows that must stay together; pieces hold whole multiples of them.

        Raises:
            ConvertError: the storage type cannot be read, or the file became shorter.
        """
        tensor = self.tensors[name]
        columns = tensor.shape[0]
        rows = tensor.elements // columns
        step = max(1, _PIECE_ELEMENTS // columns // multiple) * multiple
        row_bytes = tensor.nbytes // rows
        for start in range(0, rows, step):
            count = min(step, rows - start)
            self._file.seek(tensor.offset + start * row_bytes)
            data = self._file.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise ConvertError("invalid_gguf", "the file became shorter while it was read")
            yield _dequantised(tensor, np.frombuffer(data, np.uint8).reshape(count, row_bytes))

    def _array(self, key: str) -> list[Any]:
        value = self._metadata.get(key)
        if not isinstance(value, list):
            raise _missing(key)
        return value


def _missing(key: str) -> ConvertError:
    return ConvertError("invalid_gguf", f"the header has no usable value for {key}")


def _dequantised(tensor: GgufTensor, data: Array) -> Array:
    try:
        return dequantize(data, GGMLQuantizationType(tensor.type))
    except (NotImplementedError, ValueError) as error:
        raise unsupported(f"tensor type {tensor.type_name}") from error
