"""Reads an encoder's safetensors files and holds them to the shapes its configuration promises."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (mlx is only partly typed)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from opta_lmx.backends.mlx.embedding.folder import Shape
from opta_lmx.backends.protocol import LoadError

Weights = dict[str, Any]
_PREFIXES = ("bert.", "roberta.", "0.auto_model.", "model.")
_NORMS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""Names of old files and of new ones."""


def read_weights(folder: Path, shape: Shape, dtype: Any) -> Weights:
    """Read all arrays the network needs, cast to `dtype` (None: as they are) and evaluated.

    Raises:
        LoadError: files that cannot be read, arrays that lack or have another shape.
    """
    found: Weights = {}
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            loaded: Any = mx.load(str(path), format="safetensors")
        except (OSError, RuntimeError, ValueError) as error:
            raise LoadError(f"{path.name} cannot be read: {error}") from error
        found.update({_short(name): array for name, array in loaded.items()})
    names = [name for name, _ in needed(shape)]
    missing = [name for name in names if name not in found]
    if missing:
        raise LoadError(f"{len(missing)} weights lack, among them {missing[0]}")
    names += [name for name in found if name.startswith(("classifier.", "pooler."))]
    weights: Weights = {name: found[name] for name in names}
    _check(weights, shape)
    if dtype is not None:
        weights = {name: array.astype(dtype) for name, array in weights.items()}
    mx.eval(list(weights.values()))
    return weights


def needed(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the network's arrays; 0 stands for any size."""
    hidden = shape.hidden
    yield "embeddings.word_embeddings.weight", (shape.vocabulary, hidden)
    yield "embeddings.position_embeddings.weight", (0, hidden)
    yield "embeddings.token_type_embeddings.weight", (shape.segments, hidden)
    for layer in ("embeddings", *(f"encoder.layer.{n}" for n in range(shape.layers))):
        if layer == "embeddings":
            yield from _norm(f"{layer}.LayerNorm", hidden)
            continue
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield f"{layer}.attention.{part}.weight", (hidden, hidden)
            yield f"{layer}.attention.{part}.bias", (hidden,)
        yield from _norm(f"{layer}.attention.output.LayerNorm", hidden)
        yield f"{layer}.intermediate.dense.weight", (0, hidden)
        yield f"{layer}.intermediate.dense.bias", (0,)
        yield f"{layer}.output.dense.weight", (hidden, 0)
        yield f"{layer}.output.dense.bias", (hidden,)
        yield from _norm(f"{layer}.output.LayerNorm", hidden)


def check_head(weights: Weights, hidden: int) -> None:
    """Raise LoadError unless the weights hold a head that gives exactly one score."""
    two = "classifier.dense.weight" in weights
    names = ("classifier.dense", "classifier.out_proj") if two else ("pooler.dense", "classifier")
    sizes = {names[0]: (hidden, hidden), names[1]: (1, hidden)}
    for name, size in sizes.items():
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if weight is None or bias is None:
            raise LoadError(f"the weights have no {name}, so the model gives no score")
        if tuple(weight.shape) != size or tuple(bias.shape) != size[:1]:
            raise LoadError(f"{name} does not give one score for a text")


def _norm(name: str, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (hidden,)
    yield f"{name}.bias", (hidden,)


def _short(name: str) -> str:
    """The array's name without the family's prefix."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in _NORMS:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _check(weights: Weights, shape: Shape) -> None:
    for name, size in needed(shape):
        have = tuple(weights[name].shape)
        if len(have) != len(size) or any(w and w != h for w, h in zip(size, have, strict=True)):
            raise LoadError(f"{name} has the shape {have}, which config.json does not promise")
