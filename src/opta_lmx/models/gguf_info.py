"""Turns GGUF headers into a `ModelInfo`."""

import re
from collections import Counter
from pathlib import Path

from opta_lmx.core.types import SamplingParams
from opta_lmx.models.description import (
    MAX_LAYERS,
    MAX_TEMPLATE_BYTES,
    KvGroup,
    ModelInfo,
    grouped,
    sampling_from,
)
from opta_lmx.models.gguf_check import read_checked
from opta_lmx.models.gguf_header import GgufHeader, Scalar, Value
from opta_lmx.models.gguf_layout import bad_gguf, shown
from opta_lmx.models.gguf_types import FILE_TYPES

SLIDING_PERIOD = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone-moe": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "olmo2": 4,
    "smallthinker": 4,
}
"""Every n-th layer sees the whole context, the others a window: headers often leave this out,
and llama.cpp's own model loaders hold it. An architecture missing here counts as all global,
which errs on the side of more memory."""

_DEFAULT_WINDOW = {"llama4": 8192}
ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
"""Architectures without a cache: every token sees every other, and none is generated."""

_POOLING_NONE, _POOLING_RANK = 0, 4
_MAX_CACHED = 1 << 26
"""Elements that all caches take for a token, far above any model's: reckoning with what they cost
stays within 64 bits, which the frames to workers carry."""


def read_gguf_info(path: Path) -> ModelInfo:
    """Read and validate the headers of a GGUF model.

    Raises:
        LmxError: INVALID_REQUEST, code `invalid_gguf`.
    """
    headers = read_checked(path)
    first = headers[0]
    keys = _Keys(first.metadata)
    if keys.text("general.type", "model") != "model":
        raise bad_gguf(f"it holds an {shown(keys.text('general.type', ''))}, not a model")
    if keys.architecture == "clip":
        raise bad_gguf("it holds a vision projector, not a model")
    layers = keys.integer("block_count", limit=MAX_LAYERS)
    tensors = [tensor for header in headers for tensor in header.tensors]
    if not tensors:
        raise bad_gguf("it holds no weights")
    words = first.array_lengths.get("tokenizer.ggml.tokens", 0)
    rerank = _scores(keys, {tensor.name for tensor in tensors})
    embedding = not rerank and (
        keys.architecture in ENCODERS or keys.integer("pooling_type") != _POOLING_NONE
    )
    caches = () if embedding or rerank else grouped(_kv_layers(keys, layers))
    if sum(group.layers * (group.key + group.value) for group in caches) > _MAX_CACHED:
        raise bad_gguf("the sizes of its attention heads make no sense")
    return ModelInfo(
        format="gguf",
        architecture=keys.architecture,
        context_length=keys.integer("context_length"),
        quantisation=_quantisation(headers),
        parameters=sum(tensor.elements for tensor in tensors),
        size_bytes=sum(header.file_size for header in headers),
        weights_bytes=sum(tensor.nbytes for tensor in tensors),
        layers=layers,
        vocabulary=words or keys.integer("vocab_size"),
        kv=caches,
        chat_template=_template(first.metadata),
        sampling=_sampling(first.metadata),
        embedding=embedding,
        rerank=rerank,
    )


def _scores(keys: "_Keys", tensors: set[str]) -> bool:
    """Rerankers say so by their pooling; older files only by the head they carry."""
    if keys.has("pooling_type"):
        return keys.integer("pooling_type") == _POOLING_RANK
    return keys.architecture in ENCODERS and "cls.output.weight" in tensors


class _Keys:
    """Typed access to the keys of the file's own architecture."""

    def __init__(self, metadata: dict[str, Value]) -> None:
        self._metadata = metadata
        self.architecture = self.text("general.architecture", "")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.architecture):
            raise bad_gguf("it names no architecture")

    def text(self, key: str, default: str) -> str:
        value = self._metadata.get(key, default)
        return value if isinstance(value, str) else default

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._metadata

    def integer(self, key: str, default: int = 0, limit: int = 1 << 31) -> int:
        """A whole number of at least 0; `default` when absent."""
        return self._checked(self._metadata.get(f"{self.architecture}.{key}", default), key, limit)

    def per_layer(self, key: str, layers: int, default: int) -> list[int]:
        """A value given once for all layers, or as a list with one for each."""
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, list):
            return [self._checked(value, key, 1 << 31)] * layers
        if len(value) < layers:
            raise bad_gguf(f"its {key} does not cover all layers")
        return [self._checked(item, key, 1 << 31) for item in value[:layers]]

    def flags(self, key: str, layers: int) -> list[bool] | None:
        """One flag for each layer, or None when the key is no list."""
        value = self._metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, list):
            return None
        return [bool(item) for item in (value + [False] * layers)[:layers]]

    @staticmethod
    def _checked(value: Scalar | list[Scalar], key: str, limit: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise bad_gguf(f"its {key} makes no sense")
        return value


def _kv_layers(keys: _Keys, layers: int) -> list[KvGroup]:
    """The cache of each layer that has one."""
    heads = keys.per_layer("attention.head_count", layers, 0)
    kv_heads = keys.per_layer("attention.head_count_kv", layers, 0)
    if not keys.has("attention.head_count_kv"):
        kv_heads = heads
    width = keys.integer("embedding_length") // max([*heads, 1])
    key = keys.integer("attention.key_length", width)
    value = keys.integer("attention.value_length", width)
    key_sliding = keys.integer("attention.key_length_swa", key)
    value_sliding = keys.integer("attention.value_length_swa", value)
    window = keys.integer("attention.sliding_window", _DEFAULT_WINDOW.get(keys.architecture, 0))
    sliding = _sliding(keys, layers) if window else [False] * layers
    interval = keys.integer("full_attention_interval")
    own = layers - min(layers, keys.integer("attention.shared_kv_layers"))
    groups: list[KvGroup] = []
    for layer in range(own):
        recurrent = interval > 0 and (layer + 1) % interval != 0
        if recurrent or kv_heads[layer] == 0:
            continue
        count = kv_heads[layer]
        if sliding[layer]:
            groups.append(KvGroup(1, count * key_sliding, count * value_sliding, window))
        else:
            groups.append(KvGroup(1, count * key, count * value))
    return groups


def _sliding(keys: _Keys, layers: int) -> list[bool]:
    """Which layers keep a window only."""
    flags = keys.flags("attention.sliding_window_pattern", layers)
    if flags is not None:
        return flags
    known = SLIDING_PERIOD.get(keys.architecture, 1)
    period = keys.integer("attention.sliding_window_pattern", known) if known > 1 else 1
    return [period > 1 and layer % period < period - 1 for layer in range(layers)]


def _quantisation(headers: list[GgufHeader]) -> str:
    """The file's own word for it, or the type most of its bytes are in."""
    declared = headers[0].metadata.get("general.file_type")
    if isinstance(declared, int) and declared in FILE_TYPES:
        return FILE_TYPES[declared]
    weights: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors:
            weights[tensor.type_name] += tensor.nbytes
    return weights.most_common(1)[0][0]


def _template(metadata: dict[str, Value]) -> str | None:
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template.strip():
        return None
    if len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise bad_gguf(f"its chat template is larger than {MAX_TEMPLATE_BYTES} bytes")
    return template


def _sampling(metadata: dict[str, Value]) -> SamplingParams:
    names = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
    return sampling_from(
        {ours: metadata.get(f"general.sampling.{theirs}") for ours, theirs in names.items()}
    )
