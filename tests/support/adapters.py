"""LoRA adapters of the tiny models: random matrices, strong enough to change every text."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support.tiny import cached, write_json

RANK = 4
SCALE = 2.0
_PLACES = {  # of the tiny Llama: inputs and outputs of the layers that are changed
    "self_attn.q_proj": (256, 256),
    "self_attn.v_proj": (256, 128),
    "mlp.down_proj": (768, 256),
}
_LAYERS = (2, 3)


def tiny_adapter(name: str) -> Path:
    """Folder of an adapter of the tiny Llama; another name is another adapter."""
    return cached(f"adapter-{name}", lambda folder: write_adapter(folder, sum(name.encode())))


def write_adapter(folder: Path, seed: int, method: str = "lora", **config: Any) -> dict[str, Any]:
    """Write an adapter as mlx-lm does; its tensors. `config`: fields of the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}

    def normal(rows: int, columns: int) -> Any:
        scale = np.float32(1 / np.sqrt(rows))
        return random.standard_normal((rows, columns), dtype=np.float32) * scale

    for layer in _LAYERS:
        for place, (inputs, outputs) in _PLACES.items():
            stem = f"model.layers.{layer}.{place}"
            tensors[f"{stem}.lora_a"] = normal(inputs, RANK)
            tensors[f"{stem}.lora_b"] = normal(RANK, outputs)
            if method == "dora":
                magnitude = 1 + random.random(outputs, dtype=np.float32)
                tensors[f"{stem}.m"] = magnitude
    save_file(tensors, folder / "adapters.safetensors")
    write_json(folder / "adapter_config.json", adapter_config(method) | config)
    return tensors


def adapter_tensors(folder: Path) -> dict[str, Any]:
    """The tensors of an adapter's folder."""
    return load_file(folder / "adapters.safetensors")


def adapter_config(method: str = "lora") -> dict[str, Any]:
    """What mlx-lm writes beside the weights, as far as it reads it again."""
    parameters = {"rank": RANK, "scale": SCALE, "dropout": 0.1, "keys": list(_PLACES)}
    return {
        "fine_tune_type": method,
        "num_layers": len(_LAYERS),
        "lora_parameters": parameters,
    }
