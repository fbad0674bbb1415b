"""A second, plain implementation of the BERT family in float64, to hold the fast one against."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

Array = Any


class Reference:
    """One row at a time, no padding, no batching: what the papers say, word for word."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        self._weights = {
            name.removeprefix("bert.").removeprefix("roberta."): array.astype(np.float64)
            for name, array in weights.items()
        }

    def tokens(self, ids: list[int], segments: list[int] | None = None) -> Array:
        """Return the last layer's vectors, one for each token."""
        config, get = self.config, self._weights
        offset = 0 if config["model_type"] == "bert" else 1 + config["pad_token_id"]
        x = (
            get["embeddings.word_embeddings.weight"][ids]
            + get["embeddings.position_embeddings.weight"][offset : offset + len(ids)]
            + get["embeddings.token_type_embeddings.weight"][segments or [0] * len(ids)]
        )
        x = self._norm("embeddings.LayerNorm", x)
        for layer in range(config["num_hidden_layers"]):
            x = self._layer(f"encoder.layer.{layer}.", x)
        return x

    def logit(self, ids: list[int], segments: list[int] | None = None) -> float:
        """Return what the classification head says of the first token."""
        first = self.tokens(ids, segments)[0]
        inner, outer = ("pooler.dense", "classifier")
        if "classifier.dense.weight" in self._weights:
            inner, outer = ("classifier.dense", "classifier.out_proj")
        return float(self._linear(outer, np.tanh(self._linear(inner, first)))[0])

    def _layer(self, name: str, x: Array) -> Array:
        heads = self.config["num_attention_heads"]
        query, key, value = (
            np.split(self._linear(f"{name}attention.self.{part}", x), heads, axis=1)
            for part in ("query", "key", "value")
        )
        mixed: list[Array] = []
        for q, k, v in zip(query, key, value, strict=True):
            scores = q @ k.T / math.sqrt(q.shape[1])
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(shares / shares.sum(axis=1, keepdims=True) @ v)
        out = self._linear(f"{name}attention.output.dense", np.concatenate(mixed, axis=1))
        x = self._norm(f"{name}attention.output.LayerNorm", x + out)
        inner = self._activate(self._linear(f"{name}intermediate.dense", x))
        return self._norm(f"{name}output.LayerNorm", x + self._linear(f"{name}output.dense", inner))

    def _activate(self, x: Array) -> Array:
        match self.config["hidden_act"]:
            case "gelu":
                return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
            case "gelu_new":
                return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            case _:
                return np.maximum(x, 0)

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, x: Array) -> Array:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(variance + self.config["layer_norm_eps"])
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
