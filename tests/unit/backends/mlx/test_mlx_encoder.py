"""The encoder network and its pooling against a plain second implementation, in float64."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from opta_lmx.backends.embedding.encoder import InputError, Pair
from opta_lmx.backends.frames import Load, Ready
from opta_lmx.backends.mlx.embedding.encoder import MlxEncoder, open_encoder
from opta_lmx.backends.protocol import LoadError
from tests.support.encoder_reference import Reference
from tests.support.encoders import HIDDEN, POSITIONS, WORDS, tiny_encoder
from tests.support.tiny import write_json

TEXTS = ("one word", "a longer text with many more words in it than the others", "x")


def opened(folder: Path, **load: Any) -> tuple[MlxEncoder, Ready]:
    return open_encoder(Load("m", "mlx", path=str(folder), **load), lambda _: None)


def vectors(encoder: MlxEncoder, *inputs: Any) -> list[Any]:
    made = encoder.encode([encoder.read(value, None) for value in inputs])
    return [np.frombuffer(vector, "<f4") for vector in made]


def copy(folder: Path, into: Path) -> Path:
    into.mkdir()
    for file in folder.iterdir():
        (into / file.name).write_bytes(file.read_bytes())
    return into


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("bert", {}),
        ("bert", {"hidden_act": "gelu_new"}),
        ("bert", {"hidden_act": "relu", "num_attention_heads": 1}),
        ("xlm-roberta", {}),
    ],
)
def test_a_padded_batch_equals_the_reference_row_by_row(kind: str, config: Any) -> None:
    folder = tiny_encoder(kind, **config)
    encoder, ready = opened(folder, kind="embedding")
    reference = Reference(folder)
    assert (ready.dimensions, ready.context) == (HIDDEN, POSITIONS)
    for text, made in zip(TEXTS, vectors(encoder, *TEXTS), strict=True):
        mean = reference.tokens(list(encoder.read(text, None).ids)).mean(axis=0)
        assert made == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


@pytest.mark.parametrize(("kind", "segments"), [("bert", 1), ("bert", 2), ("xlm-roberta", 1)])
def test_scores_equal_the_reference(kind: str, segments: int) -> None:
    folder = tiny_encoder(kind, rerank=True, type_vocab_size=segments)
    encoder, ready = opened(folder, kind="rerank")
    reference = Reference(folder)
    assert ready.dimensions == 1
    for text, made in zip(
        TEXTS, vectors(encoder, *(Pair("what is it?", text) for text in TEXTS)), strict=True
    ):
        read = encoder.read(Pair("what is it?", text), None)
        second = [int(place >= read.second) for place in range(read.tokens)]
        logit = reference.logit(list(read.ids), second if segments == 2 else None)
        assert made[0] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_the_second_segment_matters() -> None:
    encoder, _ = opened(tiny_encoder(rerank=True, type_vocab_size=2), kind="rerank")
    ((one,), (two,)) = vectors(encoder, Pair("ab", "cd"), Pair("cd", "ab"))
    assert abs(one - two) > 1e-3


@pytest.mark.parametrize(
    ("flag", "reduce"),
    [
        ("pooling_mode_cls_token", lambda x: x[0]),
        ("pooling_mode_max_tokens", lambda x: x.max(axis=0)),
        ("pooling_mode_mean_tokens", lambda x: x.mean(axis=0)),
    ],
)
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("name", ["1_Pooling/config.json", "1_Pooling_config.json"])
def test_pooling_as_the_files_say(
    tmp_path: Path, flag: str, reduce: Any, normalise: bool, name: str
) -> None:
    folder = copy(tiny_encoder(), tmp_path / "m")
    (folder / "1_Pooling").mkdir()
    write_json(folder / name, {flag: True, "word_embedding_dimension": HIDDEN})
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    modules = [
        {
            "idx": n,
            "path": f"{n}_{kind}" if n else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for n, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    encoder, _ = opened(folder, kind="embedding")
    reference = Reference(folder)
    for text, made in zip(TEXTS, vectors(encoder, *TEXTS), strict=True):
        wanted = reduce(reference.tokens(list(encoder.read(text, None).ids)))
        if normalise:
            wanted = wanted / np.linalg.norm(wanted)
        assert made == pytest.approx(wanted, abs=1e-4)


def test_batches_of_any_shape_give_the_same_vectors() -> None:
    encoder, _ = opened(tiny_encoder(), kind="embedding")
    alone = [vectors(encoder, text)[0] for text in TEXTS]
    for order in itertools.permutations(range(len(TEXTS))):
        together = vectors(encoder, *(TEXTS[place] for place in order))
        for place, made in zip(order, together, strict=True):
            assert made == pytest.approx(alone[place], abs=1e-6)


def test_cutting_keeps_the_special_tokens() -> None:
    encoder, ready = opened(tiny_encoder(), kind="embedding")
    whole = encoder.read("abc " * 200, None)
    assert whole.tokens > ready.context
    cut = encoder.read("abc " * 200, 10)
    assert cut.tokens == 10
    assert (cut.ids[0], cut.ids[-1]) == (whole.ids[0], whole.ids[-1])
    assert cut.ids[:9] == whole.ids[:9]
    assert encoder.read("abc " * 200, 10_000).tokens == ready.context
    scorer, _ = opened(tiny_encoder(rerank=True), kind="rerank")
    pair = scorer.read(Pair("ab", "abc " * 200), 12)
    assert pair.tokens == 12 + scorer.read(Pair("ab", ""), None).tokens
    assert scorer.read(Pair("ab", "abc " * 200), 10_000).tokens == POSITIONS


def test_inputs_that_make_no_sense() -> None:
    encoder, _ = opened(tiny_encoder(), kind="embedding")
    for value in ((), (WORDS,), (-1,), "\ud800"):
        with pytest.raises(InputError):
            encoder.read(value, None)
    assert encoder.read((5, 6), None).ids == (5, 6)


def test_the_window_is_what_the_makers_foresaw_unless_configured(tmp_path: Path) -> None:
    folder = copy(tiny_encoder(), tmp_path / "m")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32})
    assert opened(folder, kind="embedding")[1].context == 32
    assert opened(folder, kind="embedding", context=64)[1].context == 64
    assert opened(folder, kind="embedding", context=4096)[1].context == POSITIONS


def test_widths_and_prompts_the_model_names(tmp_path: Path) -> None:
    folder = copy(tiny_encoder(matryoshka_dimensions=[8, 16, 64, 512]), tmp_path / "m")
    settings = {"prompts": {"p": "note: "}, "default_prompt_name": "p"}
    write_json(folder / "config_sentence_transformers.json", settings)
    encoder, ready = opened(folder, kind="embedding")
    assert ready.shorter == (8, 16)
    plain, _ = opened(tiny_encoder(), kind="embedding")
    assert encoder.read("abc", None).ids == plain.read("note: abc", None).ids
    free = opened(tiny_encoder(is_matryoshka=True), kind="embedding")[1].shorter
    assert (free[0], free[-1]) == (1, HIDDEN - 1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen3"}, "qwen3"),
        ({"hidden_act": "swish"}, "swish"),
        ({"position_embedding_type": "relative_key"}, "positions"),
        ({"num_attention_heads": 5}, "heads"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"hidden_size": 128}, "shape"),
        ({"vocab_size": 10}, "shape"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    folder = copy(tiny_encoder(), tmp_path / "m")
    write_json(folder / "config.json", Reference(folder).config | config)
    with pytest.raises(LoadError, match=words):
        opened(folder, kind="embedding")


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}], "Dense"),
        ([{"type": "a.Pooling", "path": "../1_Pooling"}], "outside"),
        ({"type": "a.Pooling"}, "modules.json"),
        ([{"path": 1}], "modules.json"),
    ],
)
def test_modules_that_are_not_supported(tmp_path: Path, modules: Any, words: str) -> None:
    folder = copy(tiny_encoder(), tmp_path / "m")
    write_json(folder / "modules.json", modules)
    with pytest.raises(LoadError, match=words):
        opened(folder, kind="embedding")


def test_poolings_that_are_not_supported(tmp_path: Path) -> None:
    folder = copy(tiny_encoder(), tmp_path / "m")
    flags: tuple[dict[str, Any], ...] = (
        {"pooling_mode_lasttoken": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": "weightedmean"},
    )
    for flag in flags:
        write_json(folder / "1_Pooling_config.json", flag)
        with pytest.raises(LoadError, match="pooling"):
            opened(folder, kind="embedding")


def test_a_model_without_a_head_gives_no_scores() -> None:
    with pytest.raises(LoadError, match="no score"):
        opened(tiny_encoder(), kind="rerank")


def test_a_head_of_several_classes_gives_no_score(tmp_path: Path) -> None:
    folder = copy(tiny_encoder(rerank=True), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = np.repeat(weights["classifier.weight"], 3, axis=0)
    weights["classifier.bias"] = np.repeat(weights["classifier.bias"], 3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(LoadError, match="one score"):
        opened(folder, kind="rerank")


def test_corrupt_weights(tmp_path: Path) -> None:
    folder = copy(tiny_encoder(), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(LoadError, match="finite") as caught:
        opened(folder, kind="embedding")
    assert caught.value.code == "canary_failed"
    (folder / "model.safetensors").write_bytes(b"garbage that is no header at all")
    with pytest.raises(LoadError, match=r"model\.safetensors"):
        opened(folder, kind="embedding")
