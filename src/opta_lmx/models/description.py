"""What a model says about itself, whatever files it came in."""

from typing import Literal

import msgspec

from opta_lmx.core.types import SamplingParams

Format = Literal["gguf", "mlx"]
"""`gguf`: one file (or its numbered parts); `mlx`: a folder of safetensors with config.json."""

ModelKind = Literal["chat", "embedding", "rerank"]
"""What a model is for: to continue text, to make vectors, to score documents."""

MAX_TEMPLATE_BYTES = 1 << 20
MAX_LAYERS = 4096


class KvGroup(msgspec.Struct, frozen=True):
    """Layers whose caches are alike.

    `key` and `value` are elements per token and layer (heads x width); `window` is the number
    of tokens a sliding layer keeps, 0 for a layer that keeps all. Layers with a recurrent
    state of fixed size, or sharing another layer's cache, are in no group.
    """

    layers: int
    key: int
    value: int
    window: int = 0


class ModelInfo(msgspec.Struct, frozen=True):
    """Facts read from headers, without loading anything.

    Attributes:
        architecture: the engine's name for the family (`llama`, `gemma3`, `qwen2`).
        context_length: trained window in tokens; 0 when the files do not say.
        quantisation: `Q4_K_M`, `F16`, `4bit`, `bf16` and so on.
        parameters: number of weights before quantisation.
        size_bytes: all files on disk.
        weights_bytes: tensor data alone: what loading brings into memory at least.
        vocabulary: number of tokens.
        kv: caches by kind of layer, for memory estimates.
        chat_template: the model's own Jinja text, if it has one.
        sampling: the model's own defaults.
        embedding: the model makes vectors, not text.
        rerank: the model scores how well a document answers a query.
    """

    format: Format
    architecture: str
    context_length: int
    quantisation: str
    parameters: int
    size_bytes: int
    weights_bytes: int
    layers: int
    vocabulary: int
    kv: tuple[KvGroup, ...] = ()
    chat_template: str | None = None
    sampling: SamplingParams = SamplingParams()
    embedding: bool = False
    rerank: bool = False

    @property
    def kind(self) -> ModelKind:
        """What the model is for."""
        if self.rerank:
            return "rerank"
        return "embedding" if self.embedding else "chat"


def with_draft(info: ModelInfo, draft: ModelInfo) -> ModelInfo:
    """A model together with the one that drafts for it: weights and caches of both."""
    return msgspec.structs.replace(
        info, weights_bytes=info.weights_bytes + draft.weights_bytes, kv=(*info.kv, *draft.kv)
    )


def grouped(layers: list[KvGroup]) -> tuple[KvGroup, ...]:
    """Merge single-layer groups that are alike, in order of first appearance."""
    counts: dict[tuple[int, int, int], int] = {}
    for layer in layers:
        kind = (layer.key, layer.value, layer.window)
        counts[kind] = counts.get(kind, 0) + layer.layers
    return tuple(KvGroup(count, *kind) for kind, count in counts.items())


def sampling_from(values: dict[str, object]) -> SamplingParams:
    """Defaults from untrusted numbers; a value out of its range counts as not said."""
    return SamplingParams(
        temperature=_number(values.get("temperature"), 0.0, 100.0),
        top_p=_number(values.get("top_p"), 1e-9, 1.0),
        top_k=_integer(values.get("top_k"), 0, 1 << 31),
        min_p=_number(values.get("min_p"), 0.0, 1.0),
    )


def _number(value: object, low: float, high: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if low <= value <= high else None


def _integer(value: object, low: int, high: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if low <= value <= high else None
