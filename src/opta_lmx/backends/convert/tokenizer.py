"""Builds tokenizer.json and tokenizer_config.json from a GGUF header; ids equal llama.cpp's."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# (the `tokenizers` stubs leave many parameters bare)

from typing import Any

import msgspec
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from opta_lmx.backends.convert.errors import ConvertError, unsupported
from opta_lmx.backends.convert.merges import derive_merges
from opta_lmx.backends.convert.source import MERGES, SCORES, TOKENS, TYPES, GgufSource

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_SPACE = "\u2581"

# Control tokens that end a turn whatever the header says (as llama.cpp has it).
_ENDS_OF_TURN = frozenset(
    {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"}
    | {"<|end_of_text|>", "<EOT>", "[EOT]", "</s>"}
)

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


class BuiltTokenizer(msgspec.Struct, frozen=True):
    """What goes into the folder. `eos_ids` are the tokens that end an answer."""

    tokenizer: Any
    config: dict[str, Any]
    bos_id: int | None
    eos_ids: list[int]


def build_tokenizer(source: GgufSource) -> BuiltTokenizer:
    """Make the tokenizer of a GGUF model.

    Raises:
        ConvertError: `unsupported_model` for a kind or pre-tokenizer that is not known here.
    """
    tokens = source.texts(TOKENS)
    types = [int(kind) for kind in source.numbers(TYPES)]
    if len(types) != len(tokens):
        raise ConvertError("invalid_gguf", "the vocabulary's token types do not match it")
    kind = source.text("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer, adds_bos = _byte_level(source, tokens), False
    elif kind == "llama":
        tokenizer, adds_bos = _sentencepiece(source, tokens, types), True
    else:
        raise unsupported(f"tokenizer '{kind}'")
    tokenizer.add_tokens(
        [
            AddedToken(text, special=kind == _CONTROL, normalized=False)
            for text, kind in zip(tokens, types, strict=True)
            if kind in (_CONTROL, _USER_DEFINED) and text
        ]
    )
    return _finish(source, tokenizer, tokens, types, adds_bos)


def _byte_level(source: GgufSource, tokens: list[str]) -> Tokenizer:
    """GPT-2's kind: bytes spelled as characters, merges listed in the header."""
    pre = source.text("tokenizer.ggml.pre", "default")
    merges = [_pair(merge) for merge in source.texts(MERGES)]
    vocab = {text: index for index, text in enumerate(tokens)}
    model = models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise ConvertError("invalid_gguf", "a merge of the vocabulary is not a pair")
    return left, right


def _pre_tokenizer(pre: str) -> Any:
    """How text is cut into words before merging, by llama.cpp's name for it."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pre == "gpt-2":
        return words
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    pattern = {"llama-bpe": _LLAMA3_WORDS, "qwen2": _QWEN2_WORDS}.get(pre)
    if pattern is None:
        raise unsupported(f"pre-tokenizer '{pre}'")
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([cut, plain])


def _sentencepiece(source: GgufSource, tokens: list[str], types: list[int]) -> Tokenizer:
    """SentencePiece's kind: merges follow from scores, unknown characters become bytes."""
    scores = source.numbers(SCORES)
    if len(scores) != len(tokens):
        raise ConvertError("invalid_gguf", "the vocabulary's scores do not match it")
    vocab = {text: index for index, text in enumerate(tokens)}
    usable = {t: scores[i] for t, i in vocab.items() if types[i] not in (_CONTROL, _UNUSED)}
    unknown = source.integer("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(
        vocab,
        derive_merges(usable),
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    escape = normalizers.Replace(" ", _SPACE)
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if source.flag("tokenizer.ggml.add_space_prefix", default=True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), escape])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = escape
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _finish(
    source: GgufSource, tokenizer: Tokenizer, tokens: list[str], types: list[int], adds_bos: bool
) -> BuiltTokenizer:
    """Add the tokens around a text, and say which ones end an answer."""
    bos = _special(source, "bos", tokens)
    eos = _special(source, "eos", tokens)
    turn = _special(source, "eot", tokens)
    before = bos if source.flag("tokenizer.ggml.add_bos_token", adds_bos) else None
    after = eos if source.flag("tokenizer.ggml.add_eos_token", default=False) else None
    around = [(tokens[i], i) for i in {before, after} if i is not None]
    if around:
        first = [tokens[before]] if before is not None else []
        last = [tokens[after]] if after is not None else []
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last], special_tokens=around
        )
    ends = {i for i in (eos, turn) if i is not None}
    ends |= {i for i, t in enumerate(tokens) if types[i] == _CONTROL and t in _ENDS_OF_TURN}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None if bos is None else tokens[bos],
        "eos_token": None if eos is None else tokens[eos],
        "add_bos_token": before is not None,
        "clean_up_tokenization_spaces": False,
    }
    if source.has("tokenizer.chat_template"):
        config["chat_template"] = source.text("tokenizer.chat_template")
    return BuiltTokenizer(tokenizer, config, bos, sorted(ends))


def _special(source: GgufSource, name: str, tokens: list[str]) -> int | None:
    """The id of a named special token; None when absent."""
    key = f"tokenizer.ggml.{name}_token_id"
    if not source.has(key):
        return None
    token = source.integer(key)
    if not 0 <= token < len(tokens):
        raise ConvertError("invalid_gguf", f"{key} is outside the vocabulary")
    return token
