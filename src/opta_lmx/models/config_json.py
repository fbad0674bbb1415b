"""Reads the JSON side of a model folder: config, tokenizer config, generation config, template.

A folder that wants its own code run is refused here, before anything else looks at it.
"""

from pathlib import Path
from typing import Any, cast

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import SamplingParams
from opta_lmx.models.description import (
    MAX_LAYERS,
    MAX_TEMPLATE_BYTES,
    KvGroup,
    grouped,
    sampling_from,
)
from opta_lmx.models.json_files import bad_config, read_bounded, read_object

MAX_CONFIG_BYTES = 8 << 20
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
    "n_ctx",
)
_POOLING = "1_Pooling_config.json"
"""`1_Pooling/config.json` as the store keeps it."""
_LAYER_KEYS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_HEAD_KEYS = ("num_attention_heads", "n_heads", "n_head", "num_heads")
_SLIDING_PERIOD = {"cohere2": 4, "gemma3": 6, "gemma3_text": 6, "gemma4_text": 5, "gpt_oss": 2}
"""Every n-th layer sees the whole context, where config.json does not spell the layers out."""
_WINDOWED = frozenset({"sliding_attention", "chunked_attention"})
_FULL = frozenset({"full_attention", "attention", "global", "global_attention"})
_SHORT_DTYPE = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


class FolderConfig(msgspec.Struct, frozen=True):
    """What the JSON files of a folder say. `bits` is 0 for unquantised weights."""

    architecture: str
    model_type: str
    context_length: int
    layers: int
    vocabulary: int
    kv: tuple[KvGroup, ...]
    dtype: str
    bits: int
    quantisation: str
    chat_template: str | None
    sampling: SamplingParams
    embedding: bool
    rerank: bool


def refuse_remote_code(config: dict[str, Any], name: str) -> None:
    """Raise LmxError(FORBIDDEN, code `remote_code_refused`) when `config` names code to run."""
    nested = config.get("text_config")
    inner = cast(dict[str, Any], nested) if isinstance(nested, dict) else {}
    for key in ("auto_map", "model_file"):
        if config.get(key) is not None or inner.get(key) is not None:
            raise LmxError(
                ErrorKind.FORBIDDEN,
                f"The model's {name} asks to run code of its own ('{key}'), which is refused.",
                code="remote_code_refused",
            )


def read_folder_config(folder: Path) -> FolderConfig:
    """Read the configuration of a model folder.

    Raises:
        LmxError: INVALID_REQUEST `invalid_config`; FORBIDDEN `remote_code_refused`.
    """
    outer = read_object(folder / "config.json", MAX_CONFIG_BYTES)
    if not outer:
        raise bad_config("config.json", "it is absent or empty")
    refuse_remote_code(outer, "config.json")
    tokenizer = read_object(folder / "tokenizer_config.json")
    refuse_remote_code(tokenizer, "tokenizer_config.json")
    fields = _Fields(outer)
    layers = fields.integer(*_LAYER_KEYS, limit=MAX_LAYERS)
    names = fields.strings("architectures")
    rerank = bool(names) and names[0].endswith("ForSequenceClassification")
    embedding = not rerank and _makes_vectors(folder, names)
    context = fields.integer(*_CONTEXT_KEYS)
    bits, quantisation = _quantisation(fields)
    return FolderConfig(
        architecture=names[0] if names else fields.text("model_type"),
        model_type=fields.text("model_type"),
        context_length=_foreseen(folder, context) if embedding else context,
        layers=layers,
        vocabulary=fields.integer("vocab_size", "padded_vocab_size"),
        kv=() if embedding or rerank else grouped(_kv_layers(fields, layers)),
        dtype=fields.text("dtype") or fields.text("torch_dtype"),
        bits=bits,
        quantisation=quantisation,
        chat_template=read_template(folder, tokenizer),
        sampling=sampling_from(read_object(folder / "generation_config.json", MAX_CONFIG_BYTES)),
        embedding=embedding,
        rerank=rerank,
    )


def read_template(folder: Path, tokenizer: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, else the tokenizer config's (`default` of several)."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        try:
            found: object = read_bounded(own, MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise bad_config(own.name, "it is not UTF-8") from error
    else:
        found = read_object(folder / "chat_template.json").get("chat_template")
        found = found or tokenizer.get("chat_template")
    if isinstance(found, list):
        found = _named_template(cast(list[object], found))
    if not isinstance(found, str) or not found.strip():
        return None
    if len(found) > MAX_TEMPLATE_BYTES:
        raise bad_config("chat template", f"it is larger than {MAX_TEMPLATE_BYTES} bytes")
    return found


def _named_template(templates: list[object]) -> object:
    """`default` of a list of {name, template}; else the first."""
    named: dict[object, object] = {}
    for template in templates:
        if isinstance(template, dict):
            entry = cast(dict[str, object], template)
            named[str(entry.get("name"))] = entry.get("template")
    return named.get("default") or next(iter(named.values()), None)


class _Fields:
    """Typed access to config.json; multi-modal models keep the language part in `text_config`."""

    def __init__(self, outer: dict[str, Any]) -> None:
        inner = outer.get("text_config")
        self._inner = cast(dict[str, Any], inner) if isinstance(inner, dict) else {}
        self._outer = outer

    def raw(self, key: str) -> Any:
        """The language part's value, else the whole model's."""
        value = self._inner.get(key)
        return self._outer.get(key) if value is None else value

    def text(self, key: str) -> str:
        value = self._outer.get(key) or self._inner.get(key)
        return value[:200] if isinstance(value, str) else ""

    def strings(self, key: str) -> list[str]:
        value = self.raw(key)
        items = cast(list[object], value) if isinstance(value, list) else []
        return [item[:200] for item in items if isinstance(item, str)]

    def mapping(self, key: str) -> dict[str, Any]:
        value = self._outer.get(key) or self._inner.get(key)
        return cast(dict[str, Any], value) if isinstance(value, dict) else {}

    def integer(self, *keys: str, limit: int = 1 << 31) -> int:
        """The first of `keys` that is set, a whole number of at least 0; else 0."""
        for key in keys:
            value = self.raw(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
                raise bad_config("config.json", f"its {key} makes no sense")
            return value
        return 0


def _kv_layers(fields: _Fields, layers: int) -> list[KvGroup]:
    """The cache of each layer that has one."""
    heads = fields.integer(*_HEAD_KEYS)
    kv_heads = fields.integer("num_key_value_heads", "num_kv_heads", "n_kv_heads") or heads
    width = fields.integer("head_dim")
    width = width or fields.integer("hidden_size", "n_embd", "d_model") // max(heads, 1)
    latent = fields.integer("kv_lora_rank")
    if latent:
        # Compressed attention keeps one latent and one rotary part for all heads together.
        full = KvGroup(1, latent, fields.integer("qk_rope_head_dim"))
    else:
        full = KvGroup(1, kv_heads * width, kv_heads * width)
    window = fields.integer("sliding_window", "attention_chunk_size")
    windowed = msgspec.structs.replace(full, window=window)
    groups: list[KvGroup] = []
    for kind in _layer_kinds(fields, layers):
        if kind in _WINDOWED and window:
            groups.append(windowed)
        elif kind in _FULL or kind in _WINDOWED:
            groups.append(full)
    return groups


def _layer_kinds(fields: _Fields, layers: int) -> list[str]:
    """What each layer keeps; recurrent kinds (`linear_attention`, `mamba`) keep no tokens."""
    kinds = fields.strings("layer_types")
    if kinds:
        return kinds[:layers]
    interval = fields.integer("full_attention_interval")
    if interval:
        return [
            "linear_attention" if (layer + 1) % interval else "full_attention"
            for layer in range(layers)
        ]
    known = _SLIDING_PERIOD.get(fields.text("model_type"), 1)
    declared = fields.raw("sliding_window_pattern")
    period = declared if isinstance(declared, int) and declared > 0 and known > 1 else known
    return [
        "sliding_attention" if layer % period < period - 1 else "full_attention"
        for layer in range(layers)
    ]


def _makes_vectors(folder: Path, architectures: list[str]) -> bool:
    """Sentence-transformers folders say so by a file; encoders by their class."""
    if any((folder / name).exists() for name in ("modules.json", "1_Pooling", _POOLING)):
        return True
    name = architectures[0] if architectures else ""
    return name.endswith("Model") and "LM" not in name.removeprefix("XLM")


def _foreseen(folder: Path, context: int) -> int:
    """The longest input an encoder's makers foresaw, which may be less than it could take."""
    length: object = read_object(folder / "sentence_bert_config.json").get("max_seq_length")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        return context
    return min(context or length, length)


def _quantisation(fields: _Fields) -> tuple[int, str]:
    """Bits per weight and the name, from MLX's `quantization` or from `quantization_config`."""
    ours = fields.mapping("quantization") or fields.mapping("quantization_config")
    bits = ours.get("bits")
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        method = ours.get("quant_method")
        return 0, method[:40] if isinstance(method, str) else ""
    mode = ours.get("mode") or ours.get("quant_method")
    named = isinstance(mode, str) and mode not in ("affine", "")
    return bits, f"{str(mode)[:40]}-{bits}bit" if named else f"{bits}bit"


def short_dtype(name: str) -> str:
    """`bfloat16` and its like as users write them: `bf16`."""
    return _SHORT_DTYPE.get(name.removeprefix("torch."), name)
