"""A model that takes long enough to quantise for a test to catch it at work."""

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

from tests.support.tiny import cached, tiny_llama, write_json

_LAYERS = 40


def deep_llama() -> Path:
    """The tiny Llama with its layers ten times over: 30 M parameters, 125 MB."""
    return cached("deep", _make_deep)


def _make_deep(out: Path) -> None:
    small = tiny_llama()
    shutil.copytree(small, out, dirs_exist_ok=True)
    config = json.loads((small / "config.json").read_text())
    write_json(out / "config.json", config | {"num_hidden_layers": _LAYERS})
    weights = load_file(small / "model.safetensors")
    for name, weight in list(weights.items()):
        before, _, after = name.partition("layers.")
        number, _, rest = after.partition(".")
        if after:
            for layer in range(int(number), _LAYERS, 4):
                weights[f"{before}layers.{layer}.{rest}"] = weight
    save_file(weights, out / "model.safetensors", metadata={"format": "mlx"})
