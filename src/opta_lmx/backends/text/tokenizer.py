"""Tokenizers of Hugging Face folders: text to ids, and each id back to its exact bytes.

A piece is the bytes a token contributes to the answer, so that pieces can be streamed one by
one; joining UTF-8 across pieces is the codec's work. Loaded by the `tokenizers` library alone.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (the `tokenizers` stubs leave many parameters bare)

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from opta_lmx.backends.protocol import LoadError, TextError
from opta_lmx.backends.text.files import read_object
from opta_lmx.backends.text.pieces import PieceDecoder


class HfTokenizer:
    """A tokenizer with its end-of-text knowledge.

    `bos_token` and `eos_token` are texts (empty where there is none); `eos_ids` is every id that
    ends an answer according to generation_config, config or tokenizer_config.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
        """Use `from_folder`; `settings` is tokenizer_config with `eos_ids` from the others."""
        # A tokenizer file may ask for cuts and padding that its author used in training.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.bos_token = _token_text(settings.get("bos_token"))
        self.eos_token = _token_text(settings.get("eos_token"))
        own = tokenizer.token_to_id(self.eos_token) if self.eos_token else None
        self.eos_ids: frozenset[int] = frozenset(settings.get("eos_ids", ())) | (
            {own} if own is not None else set()
        )
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._decoder = PieceDecoder.from_state(tokenizer.decoder)
        added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
        self._silent = {i: str(t.content) for i, t in added.items() if t.special}
        self._pieces: dict[int, bytes] = {}

    @classmethod
    def from_folder(cls, path: Path) -> "HfTokenizer":
        """Load tokenizer.json, or make it from tokenizer.model, and read the configuration.

        Raises:
            LoadError: neither is there, or it cannot be read.
        """
        return cls(_load(path), _settings(path))

    def encode(self, text: str, add_special: bool) -> list[int]:
        """Return token ids; `add_special` adds what the tokenizer's configuration says.

        Raises:
            TextError: the text is not valid Unicode (lone surrogates).
        """
        try:
            # The batch call releases the GIL, so decoding goes on while a long prompt is encoded.
            return self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special)[0].ids
        except (UnicodeEncodeError, TypeError) as error:
            raise TextError("the text holds characters that are not valid Unicode") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones written out."""
        return self._tokenizer.decode([*ids], skip_special_tokens=False)

    def token_id(self, text: str) -> int | None:
        """The id of `text` where the vocabulary holds it as one token."""
        return self._tokenizer.token_to_id(text)

    def keep(self, marks: Collection[str]) -> None:
        """Make tokens that are one of these texts part of answers, though they are special."""
        self._silent = {i: text for i, text in self._silent.items() if text not in marks}
        self._pieces.clear()

    def has_token(self, text: str) -> bool:
        """Whether the vocabulary holds `text` as one token."""
        return self._tokenizer.token_to_id(text) is not None

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; nothing for control tokens and unknown ids."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._make_piece(token)
        return piece

    def first_piece(self, token: int) -> bytes:
        """Return the bytes of an answer's first token.

        Some vocabularies write a space before every first word; their decoders drop it again.
        """
        piece = self.piece(token)
        return piece.removeprefix(b" ") if self._decoder.strips_first_space else piece

    def _make_piece(self, token: int) -> bytes:
        if token in self._silent:
            return b""
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        piece = self._decoder.piece(text)
        if piece is None:
            return self._tokenizer.decode([token], skip_special_tokens=False).encode()
        return piece


def _load(path: Path) -> Tokenizer:
    file = path / "tokenizer.json"
    try:
        if file.is_file():
            return Tokenizer.from_file(str(file))
        if (path / "tokenizer.model").is_file():
            return _from_sentencepiece(path)
    except LoadError:
        raise
    except Exception as error:  # the library raises bare Exception for bad files
        raise LoadError(f"the tokenizer cannot be loaded: {error}") from error
    raise LoadError("the model folder has neither tokenizer.json nor tokenizer.model")


def _from_sentencepiece(path: Path) -> Tokenizer:
    # Imported here: it takes seconds, and almost every folder has tokenizer.json.
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    backend: object = getattr(cast("object", made), "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise LoadError("tokenizer.model cannot be turned into a fast tokenizer")
    return backend


def _settings(path: Path) -> dict[str, Any]:
    """The tokenizer's settings, with the union of all end-of-text ids as `eos_ids`."""
    settings = read_object(path / "tokenizer_config.json")
    special = read_object(path / "special_tokens_map.json")
    for name in ("bos_token", "eos_token"):
        settings[name] = settings.get(name) or special.get(name)
    config = read_object(path / "config.json")
    text_config = config.get("text_config")
    sources = [read_object(path / "generation_config.json"), config]
    if isinstance(text_config, dict):
        sources.append(cast("dict[str, Any]", text_config))
    settings["eos_ids"] = {i for source in sources for i in _ids(source.get("eos_token_id"))}
    return settings


def _ids(value: object) -> list[int]:
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def _token_text(value: object) -> str:
    """Text of a token written as a string or as an AddedToken object."""
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("content")
    return value if isinstance(value, str) else ""
