"""Every mode on the real engine: what was packed answers as the whole model does."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model
from safetensors.numpy import save_file

from opta_lmx.backends.mlx.loader import MlxOptions, load
from opta_lmx.backends.quantize import rows
from opta_lmx.backends.quantize.folder import quantise
from opta_lmx.backends.quantize.outcome import Packed
from opta_lmx.backends.quantize.rules import scheme
from opta_lmx.core.errors import LmxError
from opta_lmx.models.info import read_info
from tests.support.tiny import tiny_llama, tiny_sliding
from tests.support.weights import config, folder_files, write_folder

IDS = [[300 + 7 * i for i in range(24)]]


def unwatched(phase: str, done: int, total: int, layer: str) -> None:
    """Nobody looks."""


def logits(folder: Path) -> Any:
    """The last place's, in float32."""
    return np.array(load(folder, MlxOptions()).model(mx.array(IDS))[0, -1].astype(mx.float32))


@cache
def whole() -> Any:
    """The tiny model's logits in full precision."""
    return logits(tiny_llama())


def likeness(one: Any, other: Any) -> float:
    """Cosine of two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.mark.parametrize(
    ("mode", "bits", "group_size", "least"),
    [
        ("affine", 2, 32, 0.15),
        ("affine", 3, 64, 0.45),
        ("affine", 4, 128, 0.75),
        ("affine", 5, 64, 0.9),
        ("affine", 6, 64, 0.97),
        ("affine", 8, 64, 0.997),
        ("mxfp4", 4, 32, 0.65),
        ("mxfp8", 8, 32, 0.95),
        ("nvfp4", 4, 16, 0.75),
    ],
)
def test_a_packed_model_thinks_as_the_whole_one(
    tmp_path: Path, mode: str, bits: int, group_size: int, least: float
) -> None:
    out = tmp_path / "out"
    outcome = quantise(tiny_llama(), out, scheme(mode, bits, group_size), unwatched)
    found = json.loads((out / "config.json").read_text())["quantization"]
    assert found == {"mode": mode, "bits": bits, "group_size": group_size}
    assert bits < outcome.packed.bits_per_weight < bits + 2.1
    alike = likeness(logits(out), whole())
    assert least < alike < 0.999999, alike


@pytest.mark.parametrize(("mode", "bits", "size"), [("affine", 3, 32), ("nvfp4", 4, 16)])
@pytest.mark.parametrize("shape", [(50, 64), (5, 10, 64)])
def test_packed_in_pieces_or_at_once_is_the_same(
    monkeypatch: pytest.MonkeyPatch, mode: str, bits: int, size: int, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(rows, "_AT_ONCE", 7 * 64)
    weight = mx.random.normal(shape, key=mx.random.key(3)).astype(mx.bfloat16)
    found = rows.Unpacked(weight, size, bits, mode).packed()
    whole = mx.quantize(weight, group_size=size, bits=bits, mode=mode)
    assert len(found) == len(whole)
    for piece, part in zip(found.values(), whole, strict=True):
        assert (piece.shape, piece.dtype) == (part.shape, part.dtype)
        assert mx.array_equal(piece, part)


def test_the_weights_are_those_of_mlx_lm(tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantise(tiny_llama(), out, scheme("affine", 4, 64), unwatched)
    model, found = load_model(tiny_llama(), lazy=True)
    theirs = dict(tree_flatten(quantize_model(model, found, 64, 4)[0].parameters()))
    ours = mx.load(str(out / "model.safetensors"))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[name], theirs[name]) for name in ours)


def test_another_family(tmp_path: Path) -> None:
    quantise(tiny_sliding(), tmp_path / "out", scheme(None, 8, None), unwatched)
    assert likeness(logits(tmp_path / "out"), logits(tiny_sliding())) > 0.99


def test_layers_of_no_fitting_width_are_kept_and_told_of(tmp_path: Path) -> None:
    source = _narrow(tmp_path / "narrow", intermediate=96)
    outcome = quantise(source, tmp_path / "out", scheme(None, 4, 64), unwatched)
    assert outcome.packed == Packed(outcome.packed.bits_per_weight, 7, 1)
    assert read_info(tmp_path / "out").parameters == read_info(source).parameters


def test_a_model_in_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    source = _narrow(tmp_path / "narrow")
    with pytest.raises(LmxError) as refused:
        quantise(source, tmp_path / "out", scheme(None, None, 128), unwatched)
    assert (refused.value.code, refused.value.param) == ("nothing_to_quantise", "group_size")
    assert list(tmp_path.iterdir()) == [source]


def test_a_model_that_no_engine_knows_is_refused(tmp_path: Path) -> None:
    source = _narrow(tmp_path / "narrow", model_type="unheard_of")
    with pytest.raises(LmxError) as refused:
        quantise(source, tmp_path / "out", scheme(None, None, None), unwatched)
    assert (refused.value.code, refused.value.param) == ("model_unreadable", "model")
    assert str(tmp_path) not in refused.value.message
    assert list(tmp_path.iterdir()) == [source]


def _narrow(folder: Path, intermediate: int = 64, **more: object) -> Path:
    """A model folder of one layer, 64 wide."""
    wide = {"hidden_size": 64, "intermediate_size": intermediate, "head_dim": 16}
    told = config(**(wide | {"rms_norm_eps": 1e-5, "tie_word_embeddings": True} | more))
    write_folder(folder, folder_files() | {"config.json": json.dumps(told).encode()})
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens": (8, 64),
        **{f"{layer}self_attn.{name}_proj": (64, 64) for name in "qo"},
        **{f"{layer}self_attn.{name}_proj": (32, 64) for name in "kv"},
        **{f"{layer}mlp.{name}_proj": (intermediate, 64) for name in ("gate", "up")},
        f"{layer}mlp.down_proj": (64, intermediate),
        **{f"{layer}{name}_layernorm": (64,) for name in ("input", "post_attention")},
        "model.norm": (64,),
    }
    weights = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder
