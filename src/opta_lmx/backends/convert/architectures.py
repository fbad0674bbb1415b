"""How each GGUF architecture maps to a model mlx-lm knows: its config.json and its tensors."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from opta_lmx.backends.convert.errors import ConvertError, unsupported
from opta_lmx.backends.convert.source import TOKENS, Array, GgufSource

Change = Callable[[Array], Array]


class TensorPlan(msgspec.Struct, frozen=True):
    """One weight: its name in the folder, its tensor in the GGUF, and what happens between.

    `multiple` rows must be given to `change` together.
    """

    name: str
    source: str
    change: Change | None = None
    multiple: int = 1


class ModelPlan(msgspec.Struct, frozen=True):
    """A whole model: config.json without tokens, and every weight."""

    config: dict[str, Any]
    tensors: tuple[TensorPlan, ...]


def plan_model(source: GgufSource) -> ModelPlan:
    """Map a GGUF's architecture.

    Raises:
        ConvertError: `unsupported_model` for an architecture or a variant of one that would
            come out wrong; `invalid_gguf` where values or tensors are missing.
    """
    make = _ARCHITECTURES.get(source.architecture)
    if make is None:
        raise unsupported(f"architecture '{source.architecture}'")
    plan = make(source)
    expected = {tensor.source for tensor in plan.tensors}
    if missing := expected - source.tensors.keys():
        raise ConvertError("invalid_gguf", f"tensor {min(missing)} is missing")
    if unknown := source.tensors.keys() - expected:
        raise unsupported(f"a {source.architecture} model with tensor {min(unknown)}")
    return plan


def _llama(source: GgufSource) -> ModelPlan:
    config = _common(source, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = source.integer("llama.attention.key_length", config["hidden_size"] // heads)
    if source.integer("llama.expert_count", 0):
        raise unsupported("a mixture of experts")
    if source.integer("llama.rope.dimension_count", width) != width:
        raise unsupported("partial rotary embedding")
    config |= {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "head_dim": width,
        "rope_theta": source.number("llama.rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(source, "llama"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
    }
    halves = _halves(width)
    tensors: list[TensorPlan] = []
    for layer in range(config["num_hidden_layers"]):
        tensors += _layer(layer, _LLAMA_LAYER)
        for letter, count in (("q", heads), ("k", kv_heads)):
            name = f"model.layers.{layer}.self_attn.{letter}_proj.weight"
            tensor = f"blk.{layer}.attn_{letter}.weight"
            _check_rows(source, tensor, count * width)
            tensors.append(TensorPlan(name, tensor, halves, width))
    return ModelPlan(config, (*_ends(source), *tensors))


def _gemma3(source: GgufSource) -> ModelPlan:
    config = _common(source, "gemma3")
    width = source.integer("gemma3.attention.key_length", 256)
    layers = config["num_hidden_layers"]
    # The 27B model alone scales its queries by the width of an even share (62 layers tell it).
    share = config["hidden_size"] // config["num_attention_heads"]
    config |= {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": width,
        "query_pre_attn_scalar": share if layers == 62 else width,
        "rope_theta": source.number("gemma3.rope.freq_base", 1e6),
        "rope_local_base_freq": source.number("gemma3.rope.freq_base_swa", 10000.0),
        "rope_scaling": _rope_scaling(source, "gemma3"),
        "sliding_window": source.integer("gemma3.attention.sliding_window"),
        # Not in every header: llama.cpp has it in its code, every sixth layer is global.
        "sliding_window_pattern": source.integer("gemma3.attention.sliding_window_pattern", 6),
        "tie_word_embeddings": "output.weight" not in source.tensors,
    }
    if source.number("gemma3.final_logit_softcapping", 0.0):
        raise unsupported("logit soft-capping")
    tensors: list[TensorPlan] = []
    for layer in range(layers):
        tensors += _layer(layer, _GEMMA3_LAYER)
    # llama.cpp stores Gemma's norms with their 1 added; mlx-lm adds it when it runs them.
    plans = tuple(
        msgspec.structs.replace(plan, change=_minus_one) if "norm" in plan.name else plan
        for plan in (*_ends(source), *tensors)
    )
    return ModelPlan(config, plans)


_ARCHITECTURES = {"llama": _llama, "gemma3": _gemma3}

_LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

_GEMMA3_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _common(source: GgufSource, prefix: str) -> dict[str, Any]:
    """Settings that every decoder has under the same names."""
    heads = source.integer(f"{prefix}.attention.head_count")
    embedding = source.tensors.get("token_embd.weight")
    vocabulary = embedding.shape[-1] if embedding is not None else len(source.texts(TOKENS))
    return {
        "hidden_size": source.integer(f"{prefix}.embedding_length"),
        "num_hidden_layers": source.integer(f"{prefix}.block_count"),
        "intermediate_size": source.integer(f"{prefix}.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": source.integer(f"{prefix}.attention.head_count_kv", heads),
        "rms_norm_eps": source.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": source.integer(f"{prefix}.context_length"),
        "vocab_size": vocabulary,
    }


def _rope_scaling(source: GgufSource, prefix: str) -> dict[str, Any] | None:
    """Linear position scaling carries over; other kinds have parameters GGUF does not keep."""
    kind = source.text(f"{prefix}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise unsupported(f"'{kind}' position scaling")
    return {"rope_type": "linear", "factor": source.number(f"{prefix}.rope.scaling.factor")}


def _ends(source: GgufSource) -> list[TensorPlan]:
    """Embedding, last norm, and the output head where it is not the embedding."""
    plans = [
        TensorPlan("model.embed_tokens.weight", "token_embd.weight"),
        TensorPlan("model.norm.weight", "output_norm.weight"),
    ]
    if "output.weight" in source.tensors:
        plans.append(TensorPlan("lm_head.weight", "output.weight"))
    return plans


def _layer(layer: int, names: dict[str, str]) -> list[TensorPlan]:
    return [
        TensorPlan(f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{tensor}.weight")
        for name, tensor in names.items()
    ]


def _check_rows(source: GgufSource, tensor: str, rows: int) -> None:
    found = source.tensors.get(tensor)
    if found is not None and found.shape[-1] != rows:
        raise ConvertError("invalid_gguf", f"tensor {tensor} does not have {rows} rows")


def _halves(width: int) -> Change:
    """Undo llama.cpp's row order of q and k: its rotation pairs neighbours, ours pairs halves."""

    def change(rows: Array) -> Array:
        pairs = rows.reshape(-1, width // 2, 2, rows.shape[-1])
        halves: Array = pairs.swapaxes(1, 2)
        return halves.reshape(rows.shape)

    return change


def _minus_one(rows: Array) -> Array:
    return np.subtract(rows, np.float32(1))
