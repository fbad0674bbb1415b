"""Pieces of tokens join to the exact text, whatever way a vocabulary spells bytes and spaces."""

import inspect
import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from opta_lmx.backends.protocol import LoadError, TextError
from opta_lmx.backends.text.tokenizer import HfTokenizer
from tests.support.tiny import EOS_ID, SPECIALS, VOCAB, tiny_llama

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@cache
def byte_level() -> HfTokenizer:
    return HfTokenizer.from_folder(tiny_llama())


@cache
def byte_fallback(leading_space: bool) -> HfTokenizer:
    """A SentencePiece-style vocabulary; with `leading_space`, as Llama 2 writes it."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", "h", "e", "he", "\u2581he", "\u2581\u2581", "l", "ll"]
    vocab = {word: index for index, word in enumerate(words)}
    merges = [("h", "e"), ("\u2581", "he"), ("\u2581", "\u2581"), ("l", "l")]
    model = models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(model)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if leading_space:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    prepend = [normalizers.Prepend("\u2581")] if leading_space else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "\u2581")])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>")])
    return HfTokenizer(tokenizer, {"bos_token": "<s>", "eos_token": {"content": "</s>"}})


@given(TEXTS)
def test_byte_level_pieces_join_to_the_text(text: str) -> None:
    tokenizer = byte_level()
    pieces = [tokenizer.piece(i) for i in tokenizer.encode(text, add_special=False)]
    assert b"".join(pieces) == text.encode()


@given(TEXTS.map(lambda text: text.replace("\u2581", "")))
def test_byte_fallback_pieces_join_to_the_text(text: str) -> None:
    tokenizer = byte_fallback(leading_space=False)
    ids = tokenizer.encode(text, add_special=False)
    assert b"".join(map(tokenizer.piece, ids)) == text.encode()


@given(TEXTS.map(lambda text: text.replace("\u2581", "")).filter(bool))
def test_a_dummy_prefix_is_dropped_from_the_first_piece_only(text: str) -> None:
    tokenizer = byte_fallback(leading_space=True)
    first, *rest = tokenizer.encode(text, add_special=False)
    assert tokenizer.first_piece(first) + b"".join(map(tokenizer.piece, rest)) == text.encode()
    assert b"".join(map(tokenizer.piece, [first, *rest])) == b" " + text.encode()


def test_metaspace_decoder_is_read_as_a_space_prefix() -> None:
    tokenizer = Tokenizer(models.BPE({"\u2581a": 0, "b": 1, "\u2581": 2, "a": 3}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    hf = HfTokenizer(tokenizer, {})
    assert (hf.first_piece(0), hf.piece(0), hf.piece(1)) == (b"a", b" a", b"b")


def test_unknown_decoders_fall_back_to_the_library() -> None:
    tokenizer = Tokenizer(models.WordPiece({"un": 0, "##do": 1}))
    tokenizer.decoder = decoders.WordPiece()
    assert HfTokenizer(tokenizer, {}).piece(0) == b"un"


def test_control_tokens_are_silent_and_spoken_ones_are_not() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("<|im_start|>x<|im_end|>", add_special=False)
    assert [tokenizer.piece(i) for i in ids] == [b"", b"x", b""]
    assert tokenizer.piece(VOCAB + 5) == b""

    plain = Tokenizer(models.BPE({"a": 0}, []))
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([AddedToken("<tool_call>", special=True)])
    plain.add_tokens([AddedToken("two words", special=False)])
    hf = HfTokenizer(plain, {})
    assert (hf.piece(1), hf.piece(2)) == (b"", b"two words")
    hf.keep(["<tool_call>"])
    assert (hf.piece(1), hf.piece(2)) == (b"<tool_call>", b"two words")


def test_knows_its_end_of_text_ids(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama(), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    (folder / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 9}}))
    tokenizer = HfTokenizer.from_folder(folder)
    assert tokenizer.eos_ids == {0, 7, 9, EOS_ID}
    assert tokenizer.eos_token == SPECIALS[EOS_ID]
    assert (tokenizer.bos_token, tokenizer.vocab_size) == ("", VOCAB)
    assert tokenizer.has_token("<|im_start|>")
    assert not tokenizer.has_token("<start_of_turn>")


def test_a_sentencepiece_model_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text(inspect.getsource(inspect))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": True}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = HfTokenizer.from_folder(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    text = "def main(): return 'naïve 日'"
    first, *rest = tokenizer.encode(text, add_special=False)
    assert [first, *rest] == reference.encode(text)
    assert tokenizer.first_piece(first) + b"".join(map(tokenizer.piece, rest)) == text.encode()
    assert tokenizer.encode(text, add_special=True)[0] == reference.bos_id()
    assert tokenizer.eos_ids == {reference.eos_id()}


def test_a_folder_cannot_ask_for_truncation(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama(), tmp_path / "model")
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.enable_truncation(4)
    stored.enable_padding(length=16)
    stored.save(str(folder / "tokenizer.json"))
    tokenizer = HfTokenizer.from_folder(folder)
    text = "one two three four five six seven"
    assert b"".join(map(tokenizer.piece, tokenizer.encode(text, add_special=True))) == text.encode()


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(TextError):
        byte_level().encode("bad \ud800 text", add_special=False)


@pytest.mark.parametrize("content", [None, "{", '{"model": 1}', "[]"])
def test_bad_tokenizer_files_are_load_errors(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(LoadError):
        HfTokenizer.from_folder(tmp_path)
