"""The GGUF header reader agrees with the reference writer and survives hostile files."""

import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.gguf_header import GgufHeader, read_gguf_header
from opta_lmx.models.gguf_types import FILE_TYPES, TENSOR_TYPES
from tests.support.weights import U32, U64, Gguf, llama_metadata, small_gguf, text

GOOD = small_gguf()
HUGE = (1 << 64) - 1


def read(folder: Path, data: bytes) -> GgufHeader:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return read_gguf_header(path)


def refused(folder: Path, data: bytes) -> str:
    """Read a file that must be refused; return the message."""
    with pytest.raises(LmxError) as caught:
        read(folder, data)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.code == "invalid_gguf"
    return caught.value.message


def test_agrees_with_the_reference_writer(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_rope_freq_base(10000.5)
    writer.add_string("a.string", "žluť")
    writer.add_bool("a.bool", val=True)
    writer.add_int64("an.int64", -5)
    writer.add_uint64("a.uint64", 1 << 40)
    writer.add_float64("a.float64", 0.1)
    writer.add_int8("an.int8", -3)
    writer.add_array("an.array", [1, 2, 3])
    writer.add_array("some.strings", ["x", "", "yz"])
    writer.add_array("many.strings", [str(number) for number in range(5000)])
    writer.add_array("many.numbers", list(range(5000)))
    writer.add_tensor("one", np.ones((3, 32), np.float32))
    writer.add_tensor("two", np.ones((7,), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_gguf_header(path)
    assert header.metadata["llama.context_length"] == 4096
    assert header.metadata["llama.rope.freq_base"] == 10000.5
    assert header.metadata["a.string"] == "žluť"
    assert header.metadata["a.bool"] is True
    assert header.metadata["an.int64"] == -5
    assert header.metadata["a.uint64"] == 1 << 40
    assert header.metadata["a.float64"] == 0.1
    assert header.metadata["an.int8"] == -3
    assert header.metadata["an.array"] == [1, 2, 3]
    assert header.metadata["some.strings"] == ["x", "", "yz"]
    assert "many.strings" not in header.metadata
    assert "many.numbers" not in header.metadata
    assert header.array_lengths["many.strings"] == header.array_lengths["many.numbers"] == 5000
    by_name = {tensor.name: tensor for tensor in header.tensors}
    assert by_name["one"].shape == (32, 3)
    assert by_name["one"].type_name == "F32"
    assert by_name["one"].nbytes == 384
    assert by_name["two"].type_name == "F16"
    for tensor in gguf.GGUFReader(path).tensors:
        assert by_name[tensor.name].offset == tensor.data_offset
        assert by_name[tensor.name].nbytes == tensor.n_bytes
    kept = read_gguf_header(path, keep=["many.strings", "many.numbers"]).metadata
    assert kept["many.strings"] == [str(number) for number in range(5000)]
    assert kept["many.numbers"] == list(range(5000))


def test_type_tables_are_those_of_the_reference() -> None:
    sizes = {int(kind): tuple(size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: (entry.block, entry.nbytes) for kind, entry in TENSOR_TYPES.items()} == sizes
    names = {int(kind): kind.name for kind in gguf.GGML_QUANT_SIZES}
    assert {kind: entry.name for kind, entry in TENSOR_TYPES.items()} == names
    files = {int(kind): kind.name for kind in gguf.LlamaFileType if kind.name != "GUESSED"}
    ours = {kind: name.removesuffix("_MOE") for kind, name in FILE_TYPES.items()}
    for kind, name in files.items():
        bare = name.removeprefix("ALL_").removeprefix("MOSTLY_")
        assert ours[kind] == bare.removesuffix("_MOE")


def test_version_2_is_read(tmp_path: Path) -> None:
    header = read(tmp_path, Gguf(llama_metadata(), version=2).tensor("a", (4,)).data())
    assert header.version == 2


def test_a_large_vocabulary_is_passed_over_quickly(tmp_path: Path) -> None:
    words = b"".join(text(f"token{number}") for number in range(262_144))
    array = U32.pack(9) + U32.pack(8) + U64.pack(262_144) + words
    data = Gguf(llama_metadata(tokenizer__ggml__tokens=array)).tensor("a", (4,)).data()
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    began = time.process_time()
    header = read_gguf_header(path)
    assert time.process_time() - began < 1.0
    assert header.array_lengths["tokenizer.ggml.tokens"] == 262_144


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"GGUF", "too short"),
        (b"GGML" + GOOD[4:], "magic"),
        (b"GGUF" + U32.pack(1) + GOOD[8:], "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + GOOD[8:], "big-endian"),
        (GOOD[:8] + U64.pack(HUGE) + GOOD[16:], "tensors"),
        (GOOD[:8] + U64.pack(1 << 20) + GOOD[16:], "tensors"),
        (GOOD[:16] + U64.pack(HUGE) + GOOD[24:], "metadata keys"),
        (GOOD[:16] + U64.pack(60) + GOOD[24:], ""),
        (GOOD[:24] + U64.pack(HUGE) + GOOD[32:], "key declares"),
        (GOOD[:24] + U64.pack(65_000) + GOOD[32:], "ends beyond"),
        (GOOD[:-1], "truncated"),
        (GOOD[:200], "ends beyond"),
    ],
)
def test_broken_preambles(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in refused(tmp_path, data)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (U32.pack(13) + bytes(8), "value type 13"),
        (U32.pack(8) + U64.pack(HUGE), "string declares"),
        (U32.pack(9) + U32.pack(8) + U64.pack(HUGE), "strings"),
        (U32.pack(9) + U32.pack(8) + U64.pack(1 << 61), "strings"),
        (U32.pack(9) + U32.pack(0) + U64.pack(HUGE), "elements"),
        (U32.pack(9) + U32.pack(10) + U64.pack(1 << 61), "elements"),
        (U32.pack(9) + U32.pack(9) + U64.pack(1) + U32.pack(0), "element type 9"),
        (U32.pack(9) + U32.pack(99) + U64.pack(0), "element type 99"),
    ],
)
def test_broken_values(tmp_path: Path, value: bytes, words: str) -> None:
    data = Gguf({"general.architecture": "llama", "bad": value}).tensor("a", (4,)).data()
    assert words in refused(tmp_path, data)


def test_strings_that_leap_beyond_the_file(tmp_path: Path) -> None:
    words = text("a") * 2000 + U64.pack(1 << 63) + text("b") * 100
    array = U32.pack(9) + U32.pack(8) + U64.pack(2101) + words
    assert "ends beyond" in refused(tmp_path, Gguf({"bad": array}).tensor("a", (4,)).data())


@pytest.mark.parametrize("alignment", [0, 3, 4, 33, 1 << 30, "32", -1.5])
def test_senseless_alignment(tmp_path: Path, alignment: object) -> None:
    metadata = llama_metadata() | {"general.alignment": alignment}
    assert "alignment" in refused(tmp_path, Gguf(metadata).tensor("a", (4,)).data())


def test_own_alignment_is_used(tmp_path: Path) -> None:
    metadata = llama_metadata() | {"general.alignment": 64}
    data = Gguf(metadata, alignment=64).tensor("a", (4,)).tensor("b", (4,)).data()
    header = read(tmp_path, data)
    assert header.data_offset % 64 == 0
    assert header.tensors[1].offset == header.data_offset + 64


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ((), 0, "0 dimensions"),
        ((1, 1, 1, 1, 1), 0, "5 dimensions"),
        ((0, 4), 0, "0 elements"),
        ((1 << 62, 4), 0, "elements"),
        ((1 << 63, 2, 1 << 63, 2), 0, "elements"),
        ((1 << 40,), 0, "outside"),
        ((4,), 4, "type 4"),
        ((4,), 1 << 31, "not known"),
        ((31,), 2, "blocks"),
    ],
)
def test_broken_tensors(tmp_path: Path, shape: tuple[int, ...], kind: int, words: str) -> None:
    data = Gguf(llama_metadata()).tensor("a", shape, kind, nbytes=64).data()
    assert words in refused(tmp_path, data)


@pytest.mark.parametrize(
    ("offset", "words"),
    [(16, "aligned"), (HUGE - 31, "outside"), (0, "overlap"), (1 << 40, "outside")],
)
def test_misplaced_tensors(tmp_path: Path, offset: int, words: str) -> None:
    writer = Gguf(llama_metadata()).tensor("a", (64,)).tensor("b", (64,))
    writer.tensors[1] = ("b", (64,), 0, offset, 256)
    assert words in refused(tmp_path, writer.data())


def test_names_that_appear_twice(tmp_path: Path) -> None:
    twice = Gguf(llama_metadata()).tensor("a", (4,)).tensor("a", (4,)).data()
    assert "same name" in refused(tmp_path, twice)
    other = Gguf({"aaaa": 1, "bbbb": 2}).tensor("t", (4,)).data()
    assert "twice" in refused(tmp_path, other.replace(b"bbbb", b"aaaa"))


def test_unreadable_names(tmp_path: Path) -> None:
    data = Gguf({"aaaa": 1}).tensor("t", (4,)).data()
    assert "UTF-8" in refused(tmp_path, data.replace(b"aaaa", b"\xff\xff\xff\xff"))


def test_absent_and_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(LmxError) as caught:
            read_gguf_header(path)
        assert caught.value.code == "invalid_gguf"


def test_metadata_cannot_fill_the_memory(tmp_path: Path) -> None:
    # Every kept byte would become an object; the file itself is only 3 MB.
    array = U32.pack(9) + U32.pack(0) + U64.pack(1 << 10) + bytes(1 << 10)
    data = Gguf({f"k{number}": array for number in range(3000)}).tensor("a", (4,)).data()
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(LmxError, match="memory"):
        read_gguf_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 256 << 20


def attempt(path: Path) -> GgufHeader | str:
    """The header, or the code of the typed error; anything else fails the test."""
    try:
        return read_gguf_header(path)
    except LmxError as error:
        return error.code


SMALL = Gguf(llama_metadata()).tensor("a", (32, 2)).tensor("b", (8,))
HEADER_BYTES = len(SMALL.header())
PIECES = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from([HUGE, 1 << 63, 1 << 32, 1 << 31, 1 << 20, 0, 1]).map(U64.pack),
)


@given(
    edits=st.lists(st.tuples(st.integers(4, HEADER_BYTES - 1), PIECES), min_size=1, max_size=4),
    end=st.one_of(st.none(), st.integers(0, HEADER_BYTES)),
)
def test_mutated_headers_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[int, bytes]],
    end: int | None,
) -> None:
    data = bytearray(SMALL.data())
    size = len(data)
    for at, piece in edits:
        data[at : at + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(data[: size if end is None else end])
    header = attempt(path)
    if isinstance(header, str):
        assert header == "invalid_gguf"
        return
    for tensor in header.tensors:
        assert header.data_offset <= tensor.offset
        assert tensor.offset + tensor.nbytes <= path.stat().st_size


@given(data=st.binary(max_size=400))
def test_noise_after_the_magic_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    path.write_bytes(b"GGUF" + U32.pack(3) + data)
    header = attempt(path)
    assert header == "invalid_gguf" or (isinstance(header, GgufHeader) and not header.tensors)
