"""What the parts and arrays of a GGUF file say is held against each other before llama.cpp."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.frames import Load
from opta_lmx.backends.gguf.model import open_model
from opta_lmx.backends.protocol import LoadError
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.gguf_check import read_checked
from opta_lmx.models.info import read_info
from tests.support.tiny import tiny_gguf
from tests.support.weights import SHAPES, U32, U64, Gguf, llama_metadata, small_gguf, text

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]


def written(folder: Path, data: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path) -> str:
    """The reason for which a file is refused, by the check and so by what the front reads."""
    with pytest.raises(LmxError) as caught:
        read_checked(path)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.code == "invalid_gguf"
    with pytest.raises(LmxError) as again:
        read_info(path)
    assert again.value.message == caught.value.message
    return caught.value.message


def array(kind: int, count: int, body: bytes) -> bytes:
    """An array as it lies in the file."""
    return U32.pack(9) + U32.pack(kind) + U64.pack(count) + body


def test_real_files_pass() -> None:
    (header,) = read_checked(tiny_gguf())
    assert header.array_lengths["tokenizer.ggml.tokens"] == 4096
    assert header.array_types["tokenizer.ggml.tokens"] == 8
    assert header.array_types["tokenizer.ggml.token_type"] == 5


def test_files_without_a_vocabulary_pass(tmp_path: Path) -> None:
    projector = Gguf({"general.architecture": "clip", "general.type": "mmproj"})
    path = written(tmp_path, projector.tensor("mm.0.weight", (32, 32)).data())
    assert len(read_checked(path)[0].tensors) == 1
    with pytest.raises(LmxError, match="mmproj"):
        read_info(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tokens", "abc", "tokens is no array"),
        ("tokens", [1, 2, 3], "tokens has elements of type 4"),
        ("tokens", WORDS[:7], "8 rows for 7 tokens"),
        ("tokens", [*WORDS, "i"], "8 rows for 9 tokens"),
        ("merges", [1.5], "merges has elements of type 6"),
        ("scores", [0.5] * 7, "scores has 7 elements for 8 tokens"),
        ("scores", array(6, 0, b""), "scores has 0 elements for 8 tokens"),
        ("scores", WORDS, "scores has elements of type 8"),
        ("scores", 1.0, "scores is no array"),
        ("token_type", array(5, 1, bytes(4)), "token_type has 1 elements for 8 tokens"),
        ("token_type", array(0, 8, bytes(8)), "token_type has elements of type 0"),
        ("precompiled_charsmap", [1.0], "precompiled_charsmap has elements of type 6"),
    ],
)
def test_vocabularies_that_do_not_add_up(tmp_path: Path, key: str, value: Any, words: str) -> None:
    assert words in refused(written(tmp_path, small_gguf(**{f"tokenizer__ggml__{key}": value})))


def test_a_vocabulary_that_adds_up(tmp_path: Path) -> None:
    more = {"scores": [0.5] * 8, "token_type": array(5, 8, bytes(32)), "merges": ["a b"]}
    data = small_gguf(**{f"tokenizer__ggml__{key}": value for key, value in more.items()})
    assert read_info(written(tmp_path, data)).vocabulary == 8


def test_embeddings_of_one_row(tmp_path: Path) -> None:
    writer = Gguf(llama_metadata()).tensor("token_embd.weight", (32,))
    assert "1 rows for 8 tokens" in refused(written(tmp_path, writer.data()))


def split(folder: Path, first: dict[str, Any], second: dict[str, Any], name: str = "rest") -> Path:
    """A model in two parts with these keys besides its own; `name` is the second's tensor."""
    writer = Gguf(llama_metadata() | first)
    for tensor, shape in SHAPES.items():
        writer.tensor(tensor, shape)
    rest = Gguf(second or {"general.architecture": "llama"}).tensor(name, (8,)).data()
    written(folder, rest, "m-00002-of-00002.gguf")
    return written(folder, writer.data(), "m-00001-of-00002.gguf")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"split.count": 3}, {}, "part 1 has a split.count of '3'"),
        ({"split.no": 1}, {}, "part 1 has a split.no of '1'"),
        ({"split.no": "0"}, {}, "part 1 has a split.no of '0'"),
        ({"split.tensors.count": 2}, {}, "part 1 has a split.tensors.count of '2'"),
        ({}, {"split.no": 0}, "part 2 has a split.no of '0'"),
        ({}, {"split.count": 1}, "part 2 has a split.count of '1'"),
    ],
)
def test_parts_that_are_not_of_one_model(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    assert words in refused(split(tmp_path, first, second))


def test_parts_of_one_model(tmp_path: Path) -> None:
    keys = {"split.count": 2, "split.tensors.count": 3}
    path = split(tmp_path, keys | {"split.no": 0}, keys | {"split.no": 1})
    assert [len(header.tensors) for header in read_checked(path)] == [2, 1]
    assert "tensor 'token_embd.weight'" in refused(split(tmp_path, {}, {}, "token_embd.weight"))


def test_every_part_is_checked(tmp_path: Path) -> None:
    path = split(tmp_path, {}, {})
    later = tmp_path / "m-00002-of-00002.gguf"
    later.write_bytes(later.read_bytes()[:-1])
    assert "truncated" in refused(path)
    later.write_bytes(Gguf({"x": 1}).tensor("token_embd.weight", (32, 9)).data())
    metadata = llama_metadata()
    written(tmp_path, Gguf(metadata).tensor("a", (4,)).data(), path.name)
    assert "9 rows for 8 tokens" in refused(path)


def test_one_part_alone(tmp_path: Path) -> None:
    assert "one part of several" in refused(written(tmp_path, small_gguf(split__count=2)))
    for count in (0, 1):
        assert read_checked(written(tmp_path, small_gguf(split__count=count)))


def test_a_refusal_says_what_and_where(tmp_path: Path) -> None:
    bad = Gguf(llama_metadata(bad=U32.pack(8) + U64.pack(1 << 40))).tensor("a", (4,)).data()
    at = bad.index(text("bad")) + len(text("bad")) + 4 + 8
    words = f"a string declares {1 << 40} bytes, in metadata key 'bad' at byte {at}"
    assert words in refused(written(tmp_path, bad))
    many = Gguf({}).tensor("wide", (1, 1, 1, 1, 1)).data()
    assert "5 dimensions, in tensor 'wide' at byte" in refused(written(tmp_path, many))
    nested = Gguf({"nest": array(9, 1, array(9, 1, b""))}).tensor("a", (4,)).data()
    assert "element type 9 is not known, in metadata key 'nest'" in refused(
        written(tmp_path, nested)
    )


def test_names_in_refusals_are_short_and_printable(tmp_path: Path) -> None:
    data = Gguf({"\n\x1b[2J" + "k" * 9000: U32.pack(77)}).tensor("a", (4,)).data()
    message = refused(written(tmp_path, data))
    assert message.isprintable()
    assert len(message) < 250
    message = refused(written(tmp_path, small_gguf(split__count=2, general__type="t" * 100_000)))
    assert len(message) < 250
    with pytest.raises(LmxError) as caught:
        read_info(written(tmp_path, small_gguf(general__type="t" * 100_000)))
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("name", ["a\0b", "x" * 64])
def test_tensor_names_that_the_engine_cannot_hold(tmp_path: Path, name: str) -> None:
    assert "tensor name" in refused(written(tmp_path, Gguf({}).tensor(name, (4,)).data()))


@pytest.mark.parametrize(("key", "words"), [("", "empty"), ("a\0b", "zero byte")])
def test_keys_that_the_engine_cannot_hold(tmp_path: Path, key: str, words: str) -> None:
    assert words in refused(written(tmp_path, Gguf({key: 1}).tensor("a", (4,)).data()))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 10, 11])
def test_alignment_of_another_type(tmp_path: Path, number: int) -> None:
    value = U32.pack(number) + (32).to_bytes(
        {0: 1, 1: 1, 2: 2, 3: 2, 5: 4}.get(number, 8), "little"
    )
    metadata = llama_metadata() | {"general.alignment": value}
    assert f"value type {number}" in refused(
        written(tmp_path, Gguf(metadata).tensor("a", (4,)).data())
    )


def test_heads_beyond_all_reason(tmp_path: Path) -> None:
    path = written(tmp_path, small_gguf(llama__attention__key_length=1 << 30))
    with pytest.raises(LmxError, match="attention heads"):
        read_info(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    found: list[str] = []

    def read() -> None:
        try:
            read_checked(pipe)
        except LmxError as error:
            found.append(error.message)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert "not a regular file" in found[0]


@pytest.mark.parametrize("which", ["path", "draft"])
def test_a_worker_refuses_what_the_check_refuses(tmp_path: Path, which: str) -> None:
    bad = written(tmp_path, small_gguf(tokenizer__ggml__scores=[0.5]))
    paths: dict[str, Any] = {"path": str(tiny_gguf()), which: str(bad)}
    with pytest.raises(LoadError) as caught:
        open_model(Load("m", "gguf", context=256, slots=1, draft_tokens=4, **paths))
    assert "scores has 1 elements for 8 tokens" in str(caught.value)
