"""A tiny random-weight Lfm2: attention in two layers, short convolutions in the others.

Its caches are of two kinds, and the convolutions' can never be made shorter.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tiny

_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _FFN, _WINDOW = 256, 4, 4, 2, 768, 3
_ATTENTION = (1, 3)


def tiny_hybrid() -> Path:
    """Folder of the model, with the tiny Llama's tokenizer."""
    return tiny.cached("hybrid", _make)


def _make(out: Path) -> None:
    tiny._make_tokenizer(out)
    config = tiny._config(
        "lfm2",
        "Lfm2ForCausalLM",
        norm_eps=1e-5,
        conv_bias=False,
        conv_L_cache=_WINDOW,
        block_dim=_HIDDEN,
        block_ff_dim=_FFN,
        block_multiple_of=256,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=False,
        full_attn_idxs=list(_ATTENTION),
    )
    tiny._save(out, config, _weights(out))


def _weights(folder: Path) -> dict[str, Any]:
    draw = tiny._Draw(11)
    embedding = draw.linear(tiny.VOCAB, _HIDDEN, 8.0)
    embedding[tiny._unspeakable(folder)] = 0
    weights: dict[str, Any] = {
        "model.embed_tokens.weight": embedding,
        "model.embedding_norm.weight": np.ones(_HIDDEN, np.float32),
    }
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        for norm in ("operator_norm", "ffn_norm"):
            weights[f"{prefix}{norm}.weight"] = np.ones(_HIDDEN, np.float32)
        weights[prefix + "feed_forward.w1.weight"] = draw.linear(_FFN, _HIDDEN)
        weights[prefix + "feed_forward.w3.weight"] = draw.linear(_FFN, _HIDDEN)
        weights[prefix + "feed_forward.w2.weight"] = draw.linear(_HIDDEN, _FFN, 2.0)
        made = _attention(draw) if layer in _ATTENTION else _convolution(draw)
        weights |= {prefix + name: weight for name, weight in made.items()}
    return weights


def _attention(draw: Any) -> dict[str, Any]:
    head = _HIDDEN // _HEADS
    narrow = _KV_HEADS * head
    return {
        "self_attn.q_proj.weight": draw.linear(_HIDDEN, _HIDDEN),
        "self_attn.k_proj.weight": draw.linear(narrow, _HIDDEN),
        "self_attn.v_proj.weight": draw.linear(narrow, _HIDDEN),
        "self_attn.out_proj.weight": draw.linear(_HIDDEN, _HIDDEN, 1.5),
        "self_attn.q_layernorm.weight": np.full(head, 2.0, np.float32),
        "self_attn.k_layernorm.weight": np.ones(head, np.float32),
    }


def _convolution(draw: Any) -> dict[str, Any]:
    kernel = draw.linear(_HIDDEN, _WINDOW).reshape(_HIDDEN, _WINDOW, 1)
    return {
        "conv.in_proj.weight": draw.linear(3 * _HIDDEN, _HIDDEN),
        "conv.conv.weight": kernel,
        "conv.out_proj.weight": draw.linear(_HIDDEN, _HIDDEN, 1.5),
    }
