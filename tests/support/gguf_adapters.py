"""LoRA adapters for the tiny Llama as GGUF files, and the models they make when merged in."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support.tiny import cached, tiny_llama, write_gguf

RANK, ALPHA = 4, 8.0
_TARGETS = {
    "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
    "model.layers.2.self_attn.v_proj.weight": "blk.2.attn_v.weight",
    "model.layers.3.mlp.up_proj.weight": "blk.3.ffn_up.weight",
}
"""What an adapter changes, and the tensors' names in a GGUF file."""
Matrix = Any
Shape = tuple[int, ...]
WEIGHTS: dict[str, Shape] = {
    "blk.0.attn_q.weight": (32, 64),
    "blk.0.ffn_up_exps.weight": (32, 48, 4),
    "token_embd.weight": (32, 100),
    "output_norm.weight": (32,),
}
"""Tensors of a model, fastest dimension first."""
FITTING: list[tuple[str, Shape, Shape, int]] = [
    ("blk.0.attn_q.weight", (32, 4), (4, 64), 4),
    ("blk.0.attn_q.weight", (32,), (1, 64), 1),
    ("blk.0.ffn_up_exps.weight", (32, 4, 4), (4, 48, 4), 4),
    ("token_embd.weight", (4, 100), (4, 32), 4),
    ("token_embd.weight", (1, 100), (1, 32), 1),
]
"""Pairs that change one of them, with their ranks."""
AT_ODDS: list[tuple[str, Shape, Shape]] = [
    ("blk.0.attn_q.weight", (4, 32), (4, 64)),
    ("blk.0.attn_q.weight", (32, 4), (64, 4)),
    ("blk.0.attn_q.weight", (32, 4), (8, 64)),
    ("blk.0.attn_q.weight", (32,), (4, 64)),
    ("blk.0.ffn_up_exps.weight", (32, 4, 3), (4, 48, 4)),
    ("token_embd.weight", (32, 4), (4, 100)),
    ("token_embd.weight", (4, 100), (8, 32)),
]
"""Pairs that fit nothing, not even each other."""
MISFITS: list[tuple[str, Shape, Shape]] = [
    ("blk.0.attn_q.weight", (32, 4, 2), (4, 64, 2)),
    ("blk.0.ffn_up_exps.weight", (32, 4, 3), (4, 48, 3)),
    ("blk.0.ffn_up_exps.weight", (32, 4), (4, 48)),
]
"""Pairs that fit each other, but not the model."""


def tiny_adapter(seed: int) -> Path:
    """An adapter that changes what the tiny Llama says; others of other seeds."""
    return cached(f"gguf-adapter-{seed}", lambda out: _make(out, seed)) / "adapter.gguf"


def merged_gguf(seed: int) -> Path:
    """The tiny Llama with that adapter added into its weights, as a model of its own."""
    return cached(f"gguf-merged-{seed}", lambda out: _merge(out, seed)) / "merged.gguf"


def factors(seed: int) -> dict[str, tuple[Matrix, Matrix]]:
    """The pairs (a, b) of an adapter by the weight's name: rank x in, and out x rank."""
    random = np.random.default_rng(1000 + seed)
    made: dict[str, tuple[Matrix, Matrix]] = {}
    weights = load_file(tiny_llama() / "model.safetensors")
    for name in _TARGETS:
        rows, columns = weights[name].shape
        a = random.standard_normal((RANK, columns), dtype=np.float32)
        b = random.standard_normal((rows, RANK), dtype=np.float32)
        size = weights[name].std() / np.float32(RANK**0.5 * ALPHA / RANK)
        made[name] = a, b * size
    return made


def write_adapter(
    path: Path,
    tensors: dict[str, Matrix],
    *,
    architecture: str = "llama",
    general: str = "adapter",
    alpha: float = ALPHA,
    **more: str,
) -> Path:
    """Write a file of these tensors; `more` are further header values (`__` stands for a dot)."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", general)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for key, value in more.items():
        writer.add_string(key.replace("__", "."), value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def adapter_tensors(seed: int) -> dict[str, Matrix]:
    """What is in the file of `tiny_adapter`."""
    made: dict[str, Matrix] = {}
    for name, (a, b) in factors(seed).items():
        made |= {f"{_TARGETS[name]}.lora_a": a, f"{_TARGETS[name]}.lora_b": b}
    return made


def _make(out: Path, seed: int) -> None:
    write_adapter(out / "adapter.gguf", adapter_tensors(seed))


def _merge(out: Path, seed: int) -> None:
    folder = out / "weights"
    folder.mkdir()
    shutil.copy(tiny_llama() / "tokenizer.json", folder)
    weights = load_file(tiny_llama() / "model.safetensors")
    for name, (a, b) in factors(seed).items():
        weights[name] = weights[name] + np.float32(ALPHA / RANK) * (b @ a)
    save_file(weights, folder / "model.safetensors")
    write_gguf(out / "merged.gguf", folder=folder)
    shutil.rmtree(folder)
