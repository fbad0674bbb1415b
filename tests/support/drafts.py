"""A draft model for the tiny Llama: the same with noise in its weights, so that it guesses well
but not always."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support.tiny import cached, tiny_llama, write_gguf

_NOISE = 0.02
_SEED = 11


def tiny_draft() -> Path:
    """A GGUF of the tiny Llama's shape and vocabulary; most of its best tokens are that one's."""
    return cached("gguf-draft", _make) / "tiny-draft.gguf"


def _make(out: Path) -> None:
    random = np.random.default_rng(_SEED)
    folder = out / "weights"
    folder.mkdir()
    shutil.copy(tiny_llama() / "tokenizer.json", folder)
    weights = load_file(tiny_llama() / "model.safetensors")
    for name, weight in weights.items():
        noise = random.standard_normal(weight.shape, dtype=np.float32)
        weights[name] = weight + np.float32(_NOISE) * weight.std() * noise
    save_file(weights, folder / "model.safetensors")
    write_gguf(out / "tiny-draft.gguf", folder=folder)
    shutil.rmtree(folder)
