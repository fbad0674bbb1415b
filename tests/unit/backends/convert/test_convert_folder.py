"""The converter program on the tiny model: exact weights, same tokens, refusals without traces."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from opta_lmx.backends.convert import folder
from opta_lmx.backends.convert.errors import ConvertError
from opta_lmx.backends.convert.safetensors import SafetensorsWriter
from opta_lmx.backends.mlx.folder import read_folder
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.core.types import SamplingParams
from tests.support.tiny import CONTEXT, EOS_ID, TEMPLATE, VOCAB, tiny_gguf, tiny_llama, write_gguf


class Done(NamedTuple):
    status: int
    lines: list[dict[str, Any]]

    @property
    def error(self) -> dict[str, str]:
        return dict(self.lines[-1]["error"])


def run(gguf_file: Path, out: Path, *options: str) -> Done:
    command = [sys.executable, "-m", "opta_lmx.backends.convert", "--gguf", str(gguf_file)]
    done = subprocess.run(
        [*command, "--out", str(out), *options], capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b""
    return Done(done.returncode, [json.loads(line) for line in done.stdout.splitlines()])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    out = tmp_path_factory.mktemp("converted") / "out"
    return out, run(tiny_gguf(), out)


def test_weights_come_back_exactly(converted: tuple[Path, Done]) -> None:
    ours, original = (
        load_file(path / "model.safetensors") for path in (converted[0], tiny_llama())
    )
    assert ours.keys() == original.keys()
    for name, weight in original.items():
        assert np.array_equal(ours[name], weight), name


def test_the_folder_is_whole_and_progress_reaches_the_end(converted: tuple[Path, Done]) -> None:
    out, done = converted
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert done.status == 0
    steps = [line["progress"]["done"] for line in done.lines]
    assert steps == sorted(steps)
    assert steps[-1] == done.lines[-1]["progress"]["total"]
    facts = read_folder(out)
    assert (facts.context, facts.vocabulary, facts.template) == (CONTEXT, VOCAB, TEMPLATE)
    config = json.loads((out / "config.json").read_text())
    made = json.loads((tiny_llama() / "config.json").read_text())
    same = {"model_type", "hidden_size", "head_dim", "rope_theta", "rms_norm_eps"}
    assert {key: config[key] for key in same} == {key: made[key] for key in same}


def test_the_tokenizer_is_the_same(converted: tuple[Path, Done]) -> None:
    ours, original = (HfTokenizer.from_folder(path) for path in (converted[0], tiny_llama()))
    for text in ("def main():", "  two\n\n\tlines 123", "naïve 日本 😀", "<|im_start|>x<|im_end|>"):
        assert ours.encode(text, add_special=True) == original.encode(text, add_special=True)
    assert ours.eos_ids == {EOS_ID, 0}
    assert (ours.eos_token, ours.bos_token) == ("<|im_end|>", "<|im_start|>")


def test_recommended_sampling_carries_over(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, general__sampling__temp=0.6, general__sampling__top_k=20)
    folder.convert(file, tmp_path / "out", "f32", lambda _done, _total: None)
    found = read_folder(tmp_path / "out").sampling
    assert found == SamplingParams(temperature=0.6, top_k=20)


@pytest.mark.parametrize(("dtype", "nbytes", "worst"), [("f16", 2, 2**-11), ("bf16", 2, 2**-8)])
def test_half_precision_rounds_to_nearest(
    tmp_path: Path, dtype: Any, nbytes: int, worst: float
) -> None:
    folder.convert(tiny_gguf(), tmp_path, dtype, lambda _done, _total: None)
    original = load_file(tiny_llama() / "model.safetensors")["lm_head.weight"]
    blob = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(blob[:8], "little")
    begin, end = json.loads(blob[8 : 8 + length])["lm_head.weight"]["data_offsets"]
    raw = blob[8 + length + begin : 8 + length + end]
    assert len(raw) == original.size * nbytes
    if dtype == "f16":
        values = np.frombuffer(raw, np.float16).astype(np.float32)
    else:
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        expected = gguf.quants.quantize(original, gguf.GGMLQuantizationType.BF16)
        assert raw == expected.tobytes()
    difference = np.abs(values - original.ravel())
    assert (difference <= np.abs(original.ravel()) * worst + 1e-7).all()


def test_space_prefixed_vocabularies_convert(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, sentencepiece=True)
    folder.convert(file, tmp_path / "out", "f32", lambda _done, _total: None)
    tokenizer = HfTokenizer.from_folder(tmp_path / "out")
    ids = tokenizer.encode("return self", add_special=True)
    assert ids[0] == 1
    assert b"".join(map(tokenizer.piece, ids)) == b" return self"
    assert tokenizer.first_piece(ids[1]) == b"return"
    # Characters the vocabulary lacks fall back to bytes.
    ids = tokenizer.encode("日", add_special=False)
    assert b"".join(map(tokenizer.piece, ids)) == " 日".encode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "falcon"}, "architecture 'falcon'"),
        ({"pre": "tekken"}, "pre-tokenizer 'tekken'"),
        ({"llama__expert_count": 8}, "mixture of experts"),
        ({"llama__rope__scaling__type": "yarn"}, "'yarn' position scaling"),
        ({"llama__attention__key_length": 32}, "rotary"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, **changes)
    done = run(file, tmp_path / "out")
    assert done.status == 2
    assert done.error["code"] == "unsupported_model"
    assert words in done.error["message"]
    assert list((tmp_path / "out").iterdir()) == []


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: os.truncate(file, 5_000_000),
        lambda file: os.truncate(file, 30),
        lambda file: file.write_bytes(b"GGUF" + b"\xff" * 500),
        lambda file: file.unlink(),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, spoil: Spoil) -> None:
    file = shutil.copy(tiny_gguf(), tmp_path / "model.gguf")
    spoil(file)
    done = run(file, tmp_path / "out")
    assert (done.status, done.error["code"]) == (2, "invalid_gguf")
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_disk_too_small_is_told_before_it_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=30 << 20)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(ConvertError) as caught:
        folder.convert(tiny_gguf(), tmp_path / "out", "f32", lambda _done, _total: None)
    assert caught.value.code == "insufficient_disk"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_conversion_leaves_no_files(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.convert(tiny_gguf(), tmp_path / "out", "f32", stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_weights_file_must_be_complete(tmp_path: Path) -> None:
    def write() -> None:
        with SafetensorsWriter(tmp_path / "w", {"a": (4,), "b": (4,)}, "f32") as writer:
            writer.write([np.zeros(4, np.float32)])

    with pytest.raises(ValueError, match="bytes of weights"):
        write()


def test_tokenizer_file_is_read_by_the_library(converted: tuple[Path, Done]) -> None:
    assert Tokenizer.from_file(str(converted[0] / "tokenizer.json")).get_vocab_size() == VOCAB
