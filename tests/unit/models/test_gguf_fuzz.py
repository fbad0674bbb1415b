"""Mutated GGUF headers: each is read within the file or refused by the one typed error.

A second, simpler reader here walks through what was accepted and finds where everything lies.
"""

import contextlib
import math
import os
import random
import struct
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import gguf
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.info import ModelInfo, read_info
from opta_lmx.models.memory import estimate
from tests.support.tiny import tiny_gguf
from tests.support.weights import Gguf, llama_metadata

SEED = 20_261_123
QUICK = 3_000
WHOLE = 100_000
SLOWEST_S = 2.0
"""Processor time one file may take."""
REASONS = [
    "magic",
    "version",
    "tensors",
    "metadata keys",
    "key declares",
    "string declares",
    "strings",
    "elements",
    "value type",
    "element type",
    "dimensions",
    "tensor type",
    "blocks",
    "aligned",
    "truncated",
    "overlap",
    "same name",
    "twice",
    "alignment",
    "architecture",
    "zero byte",
    "empty",
    "block_count",
]
"""Words of the refusals that mutations must have met."""
SIZES = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
EXTREMES = [0, 1, 2, 3, 7, 9, 31, 32, 255, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
EXTREMES += [1 << 32, 1 << 40, 1 << 61, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 32]
EXTREMES += [(1 << 64) - 1]


class Place(NamedTuple):
    """A number in the header: what it means, where it lies, and its width in bytes."""

    what: str
    at: int
    width: int


class Extent(NamedTuple):
    """Bytes that belong to something."""

    what: str
    start: int
    end: int


class Walk:
    """Walks through a header without any limit; leaving the bytes at hand is an error.

    `places` are the numbers that steer a reader, `strings` and `tensors` what they point at,
    `entries` where keys and tensor entries begin and end.
    """

    def __init__(self, header: bytes, size: int) -> None:
        self.raw = header
        self.at = 0
        self.places: list[Place] = []
        self.strings: list[Extent] = []
        self.keys: list[Extent] = []
        self.entries: list[Extent] = []
        self.alignment = 32
        self.number("magic", 4)
        self.number("version", 4)
        tensors, keys = self.number("tensor count", 8), self.number("key count", 8)
        for _ in range(keys):
            self.key()
        declared = [self.tensor() for _ in range(tensors)]
        data = math.ceil(self.at / self.alignment) * self.alignment
        self.tensors = [Extent(name, data + at, data + at + n) for name, at, n in declared]
        self.size = size

    def number(self, what: str, width: int) -> int:
        raw = self.raw[self.at : self.at + width]
        assert len(raw) == width, f"{what} beyond the file's end"
        self.places.append(Place(what, self.at, width))
        self.at += width
        return int.from_bytes(raw, "little")

    def string(self) -> bytes:
        length = self.number("string length", 8)
        self.strings.append(Extent("string", self.at, self.at + length))
        self.at += length
        assert self.at <= len(self.raw), "a string beyond the file's end"
        return self.raw[self.at - length : self.at]

    def key(self) -> None:
        start = self.at
        key = self.string()
        kind = self.number("value type", 4)
        if kind == 9:
            kind, count = self.number("element type", 4), self.number("element count", 8)
            for _ in range(count):
                self.value(kind)
        else:
            before = self.at
            self.value(kind)
            if key == b"general.alignment":
                self.alignment = struct.unpack_from("<I", self.raw, before)[0]
        self.keys.append(Extent(repr(key), start, self.at))

    def value(self, kind: int) -> None:
        if kind == 8:
            self.string()
        else:
            self.number("value", WIDTHS[kind])

    def tensor(self) -> tuple[str, int, int]:
        start = self.at
        name = repr(self.string())
        shape = [self.number("side", 8) for _ in range(self.number("dimensions", 4))]
        block, nbytes = SIZES[self.number("tensor type", 4)]
        offset = self.number("offset", 8)
        self.entries.append(Extent(name, start, self.at))
        assert math.prod(shape) > 0
        assert math.prod(shape) % block == 0
        return name, offset, math.prod(shape) // block * nbytes

    def verify(self) -> None:
        """All that an engine would touch lies in the file, and nothing lies upon another."""
        for extent in self.strings + self.tensors:
            assert 0 <= extent.start <= extent.end <= self.size, extent
        for extents in (self.keys, self.entries):
            names = [extent.what for extent in extents]
            assert len(set(names)) == len(names)
        assert all(extent.start % self.alignment == 0 for extent in self.tensors)
        end = self.at
        for extent in sorted(self.tensors, key=lambda extent: extent.start):
            assert extent.start >= end, f"{extent} overlaps"
            end = extent.end


class Sample(NamedTuple):
    """A good file to make bad ones of; its data are zeros that need not be written."""

    header: bytes
    size: int
    walk: Walk


def sample(path: Path) -> Sample:
    """Take a file's header, as far as its first tensor."""
    data = path.read_bytes()
    walk = Walk(data, len(data))
    walk.verify()
    start = min(extent.start for extent in walk.tensors)
    return Sample(data[:start], len(data), walk)


def reference_sample(path: Path) -> Sample:
    """A file of every kind of value and several kinds of tensor, by the reference writer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv([2])
    writer.add_rope_freq_base(10000.5)
    writer.add_chat_template("{{ messages }}")
    writer.add_bool("a.bool", val=True)
    writer.add_int64("an.int64", -5)
    writer.add_float64("a.float64", 0.1)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"word{number}" for number in range(16)])
    writer.add_token_scores([0.5] * 16)
    writer.add_token_types([1] * 16)
    writer.add_token_merges(["a b", "c d"])
    writer.add_tensor("token_embd.weight", np.ones((16, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.ones((32, 32), np.float16))
    eighths = np.zeros((4, 34), np.uint8)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("blk.0.ffn_up.weight", eighths, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones((32,), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sample(path)


def flip(rng: random.Random, header: bytearray, _base: Sample) -> None:
    """Turn a few bits over."""
    for _ in range(rng.randint(1, 8)):
        header[rng.randrange(len(header))] ^= 1 << rng.randrange(8)


def replace(rng: random.Random, header: bytearray, base: Sample) -> None:
    """Put an extreme or a neighbouring value where a length, count or offset stands."""
    place = rng.choice(base.walk.places)
    old = int.from_bytes(base.header[place.at : place.at + place.width], "little")
    near = [old + 1, old - 1, old * 2, old + 32, base.size, base.size - place.at, base.size + 1]
    value = rng.choice(EXTREMES + near) % (1 << 8 * place.width)
    header[place.at : place.at + place.width] = value.to_bytes(place.width, "little")


def steer(rng: random.Random, header: bytearray, base: Sample) -> None:
    """The same, for the numbers of one meaning, however rare they are."""
    what = rng.choice(sorted({place.what for place in base.walk.places}))
    same = [place for place in base.walk.places if place.what == what]
    place = rng.choice(same)
    value = rng.choice(EXTREMES) % (1 << 8 * place.width)
    header[place.at : place.at + place.width] = value.to_bytes(place.width, "little")


def copy_number(rng: random.Random, header: bytearray, base: Sample) -> None:
    """Put one number of a meaning in place of another: tensors then share a place or a type."""
    place = rng.choice(base.walk.places)
    same = [other for other in base.walk.places if other.what == place.what]
    other = rng.choice(same)
    header[place.at : place.at + place.width] = header[other.at : other.at + other.width]


def double(rng: random.Random, header: bytearray, base: Sample) -> None:
    """Repeat an entry, counted or not."""
    tensors = rng.random() < 0.5
    entry = rng.choice(base.walk.entries if tensors else base.walk.keys)
    header[entry.end : entry.end] = base.header[entry.start : entry.end]
    at = 8 if tensors else 16
    if rng.random() < 0.8 and len(header) >= at + 8:
        count = int.from_bytes(header[at : at + 8], "little") + 1
        header[at : at + 8] = (count % (1 << 64)).to_bytes(8, "little")


def rename(rng: random.Random, header: bytearray, base: Sample) -> None:
    """Give an entry the name of another, and leave the rest of it as it is."""
    one, other = rng.sample(base.walk.entries if rng.random() < 0.5 else base.walk.keys, 2)
    names = [base.header[entry.start : entry.end] for entry in (one, other)]
    lengths = [8 + int.from_bytes(name[:8], "little") for name in names]
    header[one.start : one.start + lengths[0]] = names[1][: lengths[1]]


def nest(rng: random.Random, header: bytearray, base: Sample) -> None:
    """Make arrays of arrays, one in the other."""
    places = [place for place in base.walk.places if place.what == "element type"]
    at = rng.choice(places).at
    deep = rng.choice([1, 2, 50, 1000])
    header[at:at] = (struct.pack("<I", 9) + struct.pack("<Q", 1)) * deep


def cut(rng: random.Random, header: bytearray, _base: Sample) -> None:
    """Take bytes out, or put some in."""
    at, count = rng.randrange(len(header)), rng.randint(1, 40)
    if rng.random() < 0.5:
        del header[at : at + count]
    else:
        header[at:at] = rng.randbytes(count)


MUTATIONS = [
    flip,
    replace,
    replace,
    steer,
    steer,
    copy_number,
    copy_number,
    double,
    nest,
    cut,
    rename,
]


def mutated(rng: random.Random, base: Sample) -> tuple[bytes, int]:
    """A header that is somehow wrong, and the size of its file."""
    header = bytearray(base.header)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if len(header) > 64:
            rng.choice(MUTATIONS)(rng, header, base)
    size = base.size + len(header) - len(base.header)
    if rng.random() < 0.15:
        size = rng.choice([rng.randrange(size), rng.randrange(len(header)), size - 1, size + 1])
    return bytes(header[:size]), max(size, 0)


def read_or_refuse(path: Path) -> ModelInfo | LmxError:
    """What the front reads, or the typed error; any other fails the test."""
    try:
        return read_info(path)
    except LmxError as error:
        return error


def attempt(path: Path, header: bytes, size: int) -> str:
    """Read a file as the front does; why it was refused, or nothing."""
    path.write_bytes(header)
    os.truncate(path, size)
    info = read_or_refuse(path)
    if isinstance(info, LmxError):
        assert info.kind is ErrorKind.INVALID_REQUEST
        assert info.code == "invalid_gguf"
        assert len(info.message) < 400
        return info.message
    # What was accepted must also be fit to be reckoned with, kept and sent.
    need = estimate(info, context=max(info.context_length, 1 << 17), slots=8)
    msgspec.json.encode((info, need))
    assert info.weights_bytes <= info.size_bytes == size
    walk = Walk(path.read_bytes(), size)
    walk.verify()
    assert sum(extent.end - extent.start for extent in walk.tensors) == info.weights_bytes
    return ""


def fuzz(folder: Path, count: int, seed: int) -> Counter[str]:
    """Read `count` mutated files; how often each reason came, none being one."""
    rng = random.Random(seed)
    samples = [reference_sample(folder / "reference.gguf"), sample(tiny_gguf())]
    answers: Counter[str] = Counter()
    path = folder / "mutated.gguf"
    for number in range(count):
        # The larger header takes 50 times as long and is no other format.
        header, size = mutated(rng, samples[number % 100 == 0])
        began = time.process_time()
        try:
            answer = attempt(path, header, size)
        except BaseException as error:
            error.add_note(f"seed {seed}, file {number}, kept as {path}")
            raise
        assert time.process_time() - began < SLOWEST_S
        answers.update([reason for reason in REASONS if reason in answer] if answer else [""])
    return answers


def check_spread(answers: Counter[str], count: int) -> None:
    """The files must be neither all good nor all bad in the same way."""
    assert answers[""] > count // 50
    assert answers[""] < count // 2
    assert not [reason for reason in REASONS if not answers[reason]]


def test_fuzzed_headers(tmp_path: Path) -> None:
    check_spread(fuzz(tmp_path, QUICK, SEED), QUICK)


@pytest.mark.slow
def test_very_many_fuzzed_headers(tmp_path: Path) -> None:
    check_spread(fuzz(tmp_path, WHOLE, SEED + 1), WHOLE)


def test_the_second_reader_sees_what_is_wrong(tmp_path: Path) -> None:
    base = reference_sample(tmp_path / "model.gguf")
    whole = base.header + bytes(base.size - len(base.header))
    Walk(whole, base.size).verify()
    with pytest.raises(AssertionError):
        Walk(whole, base.size - 1).verify()
    lengths = [place for place in base.walk.places if place.what == "string length"]
    offsets = [place for place in base.walk.places if place.what == "offset"]
    for place, value in ((lengths[3], 1 << 40), (offsets[1], 0), (offsets[1], 1 << 40)):
        wrong = bytearray(whole)
        wrong[place.at : place.at + 8] = value.to_bytes(8, "little")
        with contextlib.suppress(KeyError), pytest.raises(AssertionError):
            Walk(bytes(wrong), base.size).verify()


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(0, (1 << 32) - 1),
    st.lists(TEXTS, max_size=5),
    st.lists(st.integers(0, 9), max_size=5),
)
SHAPED = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(
    keys=st.dictionaries(TEXTS.map(lambda name: f"x.{name}"), VALUES, max_size=6),
    shapes=st.lists(SHAPED, min_size=1, max_size=5),
    power=st.integers(3, 9),
)
def test_every_well_formed_file_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    keys: dict[str, object],
    shapes: list[tuple[int, ...]],
    power: int,
) -> None:
    alignment = 1 << power
    metadata = llama_metadata() | {"general.alignment": alignment} | keys
    writer = Gguf(metadata, alignment=alignment)
    for number, shape in enumerate(shapes):
        writer.tensor(f"t{number}", shape)
    path = tmp_path_factory.getbasetemp() / "well.gguf"
    path.write_bytes(writer.data())
    info = read_info(path)
    assert info.parameters == sum(math.prod(shape) for shape in shapes)
    assert info.weights_bytes == 4 * info.parameters


@given(seed=st.integers(0, 1 << 64))
def test_any_mutation_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    base = reference_sample(folder / "whole.gguf")
    attempt(folder / "any.gguf", *mutated(random.Random(seed), base))
