"""The encoder network of the BERT family in MLX, and the ways to make one vector of its tokens.

Shapes: B rows, L tokens (the longest row's), H hidden units. Arithmetic is in the weights' type.
"""
# pyright: reportUnknownMemberType=false
# (mlx is only partly typed)

import math
from typing import Any

import mlx.core as mx

from opta_lmx.backends.mlx.embedding.folder import Pooling, Shape
from opta_lmx.backends.mlx.embedding.weights import Weights

_TINY = 1e-12


class Network:
    """Turns token ids into one vector for each token.

    Args:
        weights: arrays by name, those of the family's own files without their prefix.
        shape: the network's sizes.
    """

    def __init__(self, weights: Weights, shape: Shape) -> None:
        self._weights = weights
        self._shape = shape
        self._scale = 1.0 / math.sqrt(shape.hidden // shape.heads)

    def __call__(self, ids: Any, lengths: Any, seconds: Any) -> Any:
        """Run the network.

        Args:
            ids: (B, L) token ids, padded on the right with anything below the vocabulary.
            lengths: (B,) tokens of each row.
            seconds: (B,) place where the second text begins; L or more where there is none.

        Returns:
            (B, L, H); what stands on padding means nothing.
        """
        places = mx.arange(ids.shape[1])
        x = self._embed(ids, places, seconds)
        # Added to the scores: nothing attends to padding.
        mask = mx.where(places[None, :] < lengths[:, None], 0.0, -mx.inf)
        mask = mask[:, None, None, :].astype(x.dtype)
        for layer in range(self._shape.layers):
            x = self._layer(f"encoder.layer.{layer}.", x, mask)
        return x

    def _embed(self, ids: Any, places: Any, seconds: Any) -> Any:
        get = self._weights
        segments = (places[None, :] >= seconds[:, None]).astype(mx.int32)
        segments = mx.minimum(segments, self._shape.segments - 1)
        x = get["embeddings.word_embeddings.weight"][ids]
        x = x + get["embeddings.position_embeddings.weight"][places + self._shape.first_position]
        x = x + get["embeddings.token_type_embeddings.weight"][segments]
        return self._norm("embeddings.LayerNorm", x)

    def _layer(self, name: str, x: Any, mask: Any) -> Any:
        attended = self._attend(f"{name}attention.self.", x, mask)
        attended = self._linear(f"{name}attention.output.dense", attended)
        x = self._norm(f"{name}attention.output.LayerNorm", x + attended)
        inner = self._activate(self._linear(f"{name}intermediate.dense", x))
        outer = self._linear(f"{name}output.dense", inner)
        return self._norm(f"{name}output.LayerNorm", x + outer)

    def _attend(self, name: str, x: Any, mask: Any) -> Any:
        rows, length, hidden = x.shape
        split = (rows, length, self._shape.heads, hidden // self._shape.heads)
        query, key, value = (
            self._linear(f"{name}{part}", x).reshape(split).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        mixed = mx.fast.scaled_dot_product_attention(
            query, key, value, scale=self._scale, mask=mask
        )
        return mixed.transpose(0, 2, 1, 3).reshape(rows, length, hidden)

    def _activate(self, x: Any) -> Any:
        match self._shape.activation:
            case "gelu":
                return x * 0.5 * (1.0 + mx.erf(x * math.sqrt(0.5)))
            case "gelu_tanh":
                inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
                return x * 0.5 * (1.0 + mx.tanh(inner))
            case "relu":
                return mx.maximum(x, 0.0)

    def _linear(self, name: str, x: Any) -> Any:
        return linear(self._weights, name, x)

    def _norm(self, name: str, x: Any) -> Any:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return mx.fast.layer_norm(x, weight, bias, self._shape.eps)


def linear(weights: Weights, name: str, x: Any) -> Any:
    """Return x W^T + b of the layer called `name`."""
    return mx.addmm(weights[f"{name}.bias"], x, weights[f"{name}.weight"].T)


def pool(x: Any, lengths: Any, pooling: Pooling) -> Any:
    """Make (B, H) of (B, L, H), padding left out."""
    if pooling == "cls":
        return x[:, 0, :]
    real = (mx.arange(x.shape[1])[None, :] < lengths[:, None])[:, :, None]
    if pooling == "max":
        return mx.where(real, x, -mx.inf).max(axis=1)
    return mx.where(real, x, 0.0).sum(axis=1) / lengths[:, None].astype(x.dtype)


def normalised(x: Any) -> Any:
    """Scale each row of (B, H) to length 1."""
    return x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), _TINY)


def score(weights: Weights, x: Any) -> Any:
    """Return (B, 1) scores from 0 to 1 of (B, L, H): the classification head on the first token.

    BERT's head is a pooler and a classifier, RoBERTa's two layers of one classifier.
    """
    two = "classifier.dense.weight" in weights
    inner, outer = (
        ("classifier.dense", "classifier.out_proj") if two else ("pooler.dense", "classifier")
    )
    return mx.sigmoid(linear(weights, outer, mx.tanh(linear(weights, inner, x[:, 0, :]))))
