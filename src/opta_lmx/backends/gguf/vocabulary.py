"""The pieces of a vocabulary that are not whole UTF-8, and which of them an answer was made of.

llama.cpp holds text back until it is whole UTF-8 and then names only the last token. The bytes
of the held tokens are known, so their ids can be found again.
"""

import codecs
import re
from collections.abc import Iterable, Sequence

from opta_lmx.backends.text.pieces import BYTE_CHARACTERS

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LETTERS = str.maketrans(BYTE_CHARACTERS)
_CONTROL = 3
_MISREAD = re.compile("[ \u0120\u2581](?:[?!.,']|n't)")
"""Text that llama.cpp tidies where it shows a token to its grammars: the space goes.

The space is spelled as one, as byte-level vocabularies do, or as SentencePiece does.
"""
_MAX_HELD = 16


class Vocabulary:
    """Fragments of characters, by id and by bytes.

    `controls` holds the ids of all control tokens by text; `markers` are those whose text is
    part of an answer (see `keep`); `misread` are tokens whose text llama.cpp's grammars take
    for another.
    """

    def __init__(
        self,
        fragments: dict[int, bytes],
        controls: dict[str, int] | None = None,
        misread: tuple[int, ...] = (),
    ) -> None:
        self.controls = controls or {}
        self.misread = misread
        self._pieces = fragments
        self._ids = {piece: token for token, piece in fragments.items()}
        self._longest = max(map(len, self._ids), default=0)
        self.markers: tuple[str, ...] = ()

    def keep(self, marks: Iterable[str]) -> None:
        """Make control tokens that are one of these texts part of answers."""
        self.markers = tuple(mark for mark in marks if mark in self.controls)

    def held(self, text: bytes, count: int, last: int) -> list[int] | None:
        """Return ids of the `count` tokens held back before token `last`, all making `text`.

        None when they cannot be found. Where a text can be cut in several ways the longest
        pieces win, which need not be the model's own cut; the bytes are the same.
        """
        end = self._pieces.get(last)
        if end is None or not text.endswith(end) or not 0 < count <= _MAX_HELD:
            return None
        return self._cut(text[: len(text) - len(end)], count)

    def inside_character(self, tokens: Sequence[int]) -> bool:
        """Whether the text of these tokens ends within a character."""
        tail = b""
        for token in reversed(tokens[-_MAX_HELD:]):
            piece = self._pieces.get(token)
            if piece is None:
                break
            tail = piece + tail
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(tail)
        return bool(decoder.getstate()[0])

    def _cut(self, text: bytes, count: int) -> list[int] | None:
        if count == 0:
            return None if text else []
        for size in range(min(self._longest, len(text)), 0, -1):
            token = self._ids.get(text[:size])
            if token is not None:
                rest = self._cut(text[size:], count - 1)
                if rest is not None:
                    return [token, *rest]
        return None


def read_vocabulary(kind: str, tokens: Sequence[str], types: Sequence[int]) -> Vocabulary:
    """Build from the tokenizer's arrays of a GGUF header.

    Args:
        kind: `tokenizer.ggml.model`: `gpt2` spells bytes as letters, others as `<0xNN>`.
        tokens: text of each token as the file writes it.
        types: kind of each token (3 is a control token); may be empty.
    """
    pieces = _letter_fragments(tokens) if kind == "gpt2" else _byte_tokens(tokens)
    kinds = zip(tokens, types, strict=False)
    controls = {text: token for token, (text, kind_) in enumerate(kinds) if kind_ == _CONTROL}
    misread = tuple(token for token, text in enumerate(tokens) if _MISREAD.search(text))
    return Vocabulary(dict(pieces), controls, misread)


def follows_grammars(kind: str, space_prefix: bool | None) -> bool:
    """Whether llama.cpp can hold this vocabulary to a grammar.

    It reads each token's text without the space that the tokenizer drops at the start of a
    text, so where it drops one, grammars and answers differ by spaces.

    Args:
        kind: `tokenizer.ggml.model`.
        space_prefix: `tokenizer.ggml.add_space_prefix`; None where the file does not say.
    """
    return kind != "llama" or space_prefix is False


def _byte_tokens(tokens: Iterable[str]) -> Iterable[tuple[int, bytes]]:
    for token, text in enumerate(tokens):
        if text.startswith("<0x") and (match := _BYTE_TOKEN.fullmatch(text)):
            byte = bytes.fromhex(match[1])
            if not byte.isascii():
                yield token, byte


def _letter_fragments(tokens: Iterable[str]) -> Iterable[tuple[int, bytes]]:
    for token, text in enumerate(tokens):
        if text.isascii():
            continue
        try:
            piece = text.translate(_LETTERS).encode("latin-1")
        except UnicodeEncodeError:
            continue  # an added token, written as plain text
        if not _whole(piece):
            yield token, piece


def _whole(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
