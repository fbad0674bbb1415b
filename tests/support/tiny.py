"""Tiny random-weight models made at test time: a Llama, two siblings of it, and a GGUF.

Fixed seeds, about a second each, kept under `.cache/` and shared by every test process. The
weights are scaled so that the best token leads clearly (the same text from different batch
shapes and engines) and attention is sharp (the text does not fall into a loop). The output
head ignores special tokens, control characters and tokens that are not whole UTF-8, so greedy
text is always printable and never ends by itself.
"""

import inspect
import json
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VERSION = f"4-py{sys.version_info.major}{sys.version_info.minor}"
CONTEXT = 8192
VOCAB = 4096
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS_ID = SPECIALS.index("<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _HEAD_DIM, _FFN = 256, 4, 4, 2, 64, 768
_LOGIT_STD = 6.0
_QUERY_GAIN = 3.0
_Weights = dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]


def tiny_llama() -> Path:
    """Folder of a 5 M parameter Llama: 4 layers x 256, f32, byte BPE of 4096 tokens, ChatML."""
    return cached("llama", _make_llama)


def tiny_sliding() -> Path:
    """Folder of the gemma3_text sibling: layers 0 and 2 see a window of 64 tokens."""
    return cached("sliding", _make_sliding)


def tiny_qwen2() -> Path:
    """Folder of the qwen2 sibling: as the Llama, with biases on q, k and v."""
    return cached("qwen2", _make_qwen2)


def tiny_gguf() -> Path:
    """The same Llama as one f32 GGUF file for llama.cpp, tokenizer and template included."""
    return cached("gguf", _make_gguf) / "tiny-llama.gguf"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the made folder, making it first; safe when several processes come at once."""
    root = Path(__file__).resolve().parents[2] / ".cache" / f"tiny-{VERSION}"
    target = root / name
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        make(draft)
        draft.chmod(0o755)
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # another process may have finished first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


# --- tokenizer


def _make_tokenizer(out: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    names = (
        "argparse",
        "asyncio/base_events",
        "typing",
        "inspect",
        "zipfile",
        "ast",
        "decimal",
    )
    corpus = [path.read_text("utf-8") for n in names if (path := stdlib / f"{n}.py").is_file()]
    tokenizer.train_from_iterator([*corpus, inspect.getdoc(dict) or ""], trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "chat_template": TEMPLATE,
            "model_max_length": CONTEXT,
        },
    )


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), "utf-8")


# --- weights


class _Draw:
    """Random matrices of a chosen output scale for inputs of unit variance."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def linear(self, rows: int, columns: int, gain: float = 1.0) -> Any:
        scale = np.float32(gain / np.sqrt(columns))
        return self._random.standard_normal((rows, columns), dtype=np.float32) * scale

    def vector(self, size: int, scale: float) -> Any:
        return self._random.standard_normal(size, dtype=np.float32) * np.float32(scale)


def _unspeakable(folder: Path) -> list[int]:
    """Ids that are special, or not whole UTF-8 text by themselves."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = tokenizer.decode_batch([[i] for i in range(VOCAB)], skip_special_tokens=True)
    return [i for i, text in enumerate(texts) if not text or "\N{REPLACEMENT CHARACTER}" in text]


def _weights(folder: Path, seed: int, query_gain: float = _QUERY_GAIN) -> _Weights:
    draw = _Draw(seed)
    out: _Weights = {"model.embed_tokens.weight": draw.linear(VOCAB, _HIDDEN, _HIDDEN**0.5)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        q_width, kv_width = _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
        out[attention + "q_proj.weight"] = draw.linear(q_width, _HIDDEN, query_gain)
        out[attention + "k_proj.weight"] = draw.linear(kv_width, _HIDDEN)
        out[attention + "v_proj.weight"] = draw.linear(kv_width, _HIDDEN)
        out[attention + "o_proj.weight"] = draw.linear(_HIDDEN, q_width, 1.5)
        out[mlp + "gate_proj.weight"] = draw.linear(_FFN, _HIDDEN)
        out[mlp + "up_proj.weight"] = draw.linear(_FFN, _HIDDEN)
        out[mlp + "down_proj.weight"] = draw.linear(_HIDDEN, _FFN, 2.0)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"{prefix}{norm}.weight"] = np.ones(_HIDDEN, np.float32)
    out["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    head = draw.linear(VOCAB, _HIDDEN, _LOGIT_STD)
    head[_unspeakable(folder)] = 0
    out["lm_head.weight"] = head
    return out


def _config(model_type: str, architecture: str, **extra: object) -> dict[str, object]:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "intermediate_size": _FFN,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": EOS_ID,
        **extra,
    }


def _save(out: Path, config: dict[str, object], weights: _Weights) -> None:
    write_json(out / "config.json", config)
    save_file(weights, out / "model.safetensors", metadata={"format": "mlx"})


def _make_llama(out: Path) -> None:
    _make_tokenizer(out)
    _save(out, _config("llama", "LlamaForCausalLM"), _weights(out, seed=7))


def _make_qwen2(out: Path) -> None:
    _make_tokenizer(out)
    weights, draw = _weights(out, seed=8), _Draw(80)
    for layer in range(_LAYERS):
        for name, heads in (("q", _HEADS), ("k", _KV_HEADS), ("v", _KV_HEADS)):
            bias = draw.vector(heads * _HEAD_DIM, 0.3)
            weights[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = bias
    _save(out, _config("qwen2", "Qwen2ForCausalLM"), weights)


def _make_sliding(out: Path) -> None:
    _make_tokenizer(out)
    weights = _weights(out, seed=9, query_gain=1.0)
    weights["model.embed_tokens.weight"] /= np.float32(_HIDDEN**0.5)  # gemma scales it up again
    zero = {name: np.zeros_like(w) for name, w in weights.items() if "norm" in name}
    weights.update(zero)  # gemma's norms add one to their weight
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        for norm in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            weights[f"{prefix}{norm}.weight"] = np.zeros(_HIDDEN, np.float32)
        # the query norm undoes the gain of q_proj, so sharpness is put into its weight
        weights[prefix + "self_attn.q_norm.weight"] = np.full(_HEAD_DIM, 2.0, np.float32)
        weights[prefix + "self_attn.k_norm.weight"] = np.zeros(_HEAD_DIM, np.float32)
    extra = {
        "sliding_window": 64,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": _HEAD_DIM,
    }
    _save(out, _config("gemma3_text", "Gemma3ForCausalLM", **extra), weights)


# --- GGUF


def _make_gguf(out: Path) -> None:
    write_gguf(out / "tiny-llama.gguf")


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    pre: str = "gpt-2",
    sentencepiece: bool = False,
    context: int = CONTEXT,
    folder: Path | None = None,
    template: str = TEMPLATE,
    **extra: float | str,
) -> None:
    """Write the tiny Llama as GGUF.

    Args:
        path: the file to make.
        architecture: what it claims to be.
        pre: llama.cpp's name of the pre-tokenizer.
        sentencepiece: bring a SentencePiece-style vocabulary with a space prefix instead.
        context: the window in tokens that it claims.
        folder: another Llama of the same size.
        template: for its conversations.
        extra: further header values, their dots written as two underscores.
    """
    import gguf
    from safetensors.numpy import load_file

    llama = folder or tiny_llama()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny-llama")
    writer.add_context_length(context)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FFN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if sentencepiece:
        _add_sentencepiece(writer, llama)
    else:
        _add_byte_level(writer, llama, pre)
    writer.add_chat_template(template)
    adders = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in extra.items():
        adders[type(value)](key.replace("__", "."), value)
    for name, weight in load_file(llama / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name), _rope_order(name, weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_byte_level(writer: Any, folder: Path, pre: str) -> None:
    import gguf

    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    model = tokenizer["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    kinds = (gguf.TokenType.USER_DEFINED, gguf.TokenType.CONTROL)
    added = {token["content"]: kinds[token["special"]] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([added.get(t, gguf.TokenType.NORMAL) for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(SPECIALS.index("<|im_start|>"))
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(False)


def _add_sentencepiece(writer: Any, folder: Path) -> None:
    """The same words with scores instead of merges, spaces as U+2581, and bytes to fall back on."""
    import gguf

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = tokenizer.decode_batch([[i] for i in range(len(SPECIALS), VOCAB)])
    plain = [t for t in texts if t.replace("\n", "").isprintable() and "\ufffd" not in t]
    words = [t.replace(" ", "\u2581") for t in plain]
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    # A real vocabulary lists joined words, best first, then single characters, worst of all.
    singles = sorted({c for word in words for c in word})
    joined = [w for w in dict.fromkeys(words) if len(w) > 1 and w not in fixed]
    pieces = [*joined[: VOCAB - len(fixed) - len(singles)], *singles]
    kinds = gguf.TokenType
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    filler = [f"<unused{i}>" for i in range(VOCAB - len(fixed) - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*fixed, *pieces, *filler])
    writer.add_token_scores([0.0] * len(fixed) + [-float(i) for i in range(VOCAB - len(fixed))])
    writer.add_token_types([*types, *[kinds.NORMAL] * len(pieces), *[kinds.UNUSED] * len(filler)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(True)


def _gguf_name(name: str) -> str:
    renames = (
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    )
    for old, new in renames:
        name = name.replace(old, new)
    return name


def _rope_order(name: str, weight: Any) -> Any:
    """Interleave the two halves of each head of q and k, as llama.cpp's rope pairs neighbours."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    heads = weight.shape[0] // _HEAD_DIM
    halves = weight.reshape(heads, 2, _HEAD_DIM // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
