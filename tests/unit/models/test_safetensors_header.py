"""The safetensors header reader agrees with the reference and refuses what does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.safetensors_header import SafetensorsHeader, read_safetensors_header
from tests.support.weights import U64, safetensors, with_header

GOOD = safetensors({"a": ("F32", (2, 3), bytes(24)), "b": ("U8", (5,), bytes(5))})


def read(folder: Path, data: bytes) -> SafetensorsHeader:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return read_safetensors_header(path)


def refused(folder: Path, data: bytes) -> str:
    with pytest.raises(LmxError) as caught:
        read(folder, data)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.code == "invalid_safetensors"
    return caught.value.message


def entry(**fields: Any) -> bytes:
    """A file with one float tensor of two elements, described as `fields` say."""
    described = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields
    return with_header(json.dumps({"a": described}).encode(), bytes(8))


def test_agrees_with_the_reference_writer(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {
        "x": np.ones((3, 4), np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "scalar": np.array(7, np.int64),
    }
    save_file(arrays, path, metadata={"format": "np"})
    header = read_safetensors_header(path)
    assert header.metadata == {"format": "np"}
    assert header.file_size == path.stat().st_size
    assert {name: (t.dtype, t.shape) for name, t in header.tensors.items()} == {
        "x": ("F32", (3, 4)),
        "empty": ("F16", (0, 4)),
        "scalar": ("I64", ()),
    }
    x = header.tensors["x"]
    assert x.elements == 12
    stored = path.read_bytes()[x.offset : x.offset + x.nbytes]
    assert stored == arrays["x"].tobytes()


def test_types_smaller_than_a_byte(tmp_path: Path) -> None:
    data = safetensors({"a": ("F4", (4,), bytes(2)), "b": ("F6_E2M3", (4,), bytes(3))})
    assert read(tmp_path, data).tensors["b"].nbytes == 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"\0" * 7, "too short"),
        (U64.pack((1 << 64) - 1) + b"{}", "header declares"),
        (U64.pack(1 << 30) + b"{}", "header declares"),
        (with_header(b"", b""), "JSON"),
        (with_header(b"[]", b""), "JSON"),
        (with_header(b'{"a":' * 5000 + b"1" + b"}" * 5000, b""), "JSON"),
        (with_header(b'{"\xff": 1}', b""), "JSON"),
        (with_header(b'{"__metadata__": {"a": 1}}', b""), "JSON"),
        (with_header(b'{"a": {"dtype": "F32"}}', b""), "JSON"),
        (GOOD[:-1], "truncated"),
        (GOOD + b"\0", "longer"),
    ],
)
def test_broken_files(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in refused(tmp_path, data)


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "F31"},
        {"shape": [-2]},
        {"shape": [-1, -2]},
        {"shape": [1 << 62, 8]},
        {"shape": [3]},
        {"shape": [1.5]},
        {"shape": [True]},
        {"shape": [1] * 33 + [2]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [4, 12]},
        {"data_offsets": [0, 1 << 70]},
        {"data_offsets": [0]},
    ],
)
def test_broken_entries(tmp_path: Path, fields: dict[str, Any]) -> None:
    refused(tmp_path, entry(**fields))


def test_gaps_and_overlaps(tmp_path: Path) -> None:
    for second in ([4, 12], [12, 20], [0, 8]):
        described = {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": second},
        }
        data = with_header(json.dumps(described).encode(), bytes(second[1]))
        assert "gaps or overlap" in refused(tmp_path, data)


def attempt(path: Path) -> SafetensorsHeader | str:
    """The header, or the code of the typed error; anything else fails the test."""
    try:
        return read_safetensors_header(path)
    except LmxError as error:
        return error.code


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(GOOD) - 30), st.binary(min_size=1, max_size=4)), max_size=4
    ),
    end=st.one_of(st.none(), st.integers(0, len(GOOD))),
)
def test_mutated_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], end: int | None
) -> None:
    data = bytearray(GOOD)
    for at, piece in edits:
        data[at : at + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(data[: len(GOOD) if end is None else end])
    header = attempt(path)
    if isinstance(header, str):
        assert header == "invalid_safetensors"
        return
    assert sum(tensor.nbytes for tensor in header.tensors.values()) <= path.stat().st_size
