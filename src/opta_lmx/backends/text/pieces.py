"""A tokenizer's decoder, applied to one token at a time and giving bytes.

Byte-level vocabularies spell each byte as a printable character; SentencePiece-style ones write
a space as U+2581 and a lone byte as `<0xNN>`. Source: the decoders of the `tokenizers` library.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_characters() -> dict[str, int]:
    """The character that stands for each byte in GPT-2's and later byte-level vocabularies."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(plain)]
    table = {chr(byte): byte for byte in plain}
    table.update({chr(0x100 + offset): byte for offset, byte in enumerate(moved)})
    return table


BYTE_CHARACTERS = _byte_characters()

_Rule = Callable[[str], str | bytes | None]
"""Turns a token's text into other text, or into its final bytes; None: does not apply."""


class PieceDecoder:
    """Turns one token's text into its bytes.

    `strips_first_space` tells that the decoder drops one space at the very start of a text.
    """

    def __init__(self, rules: tuple[_Rule, ...] | None, strips_first_space: bool = False) -> None:
        """Use `from_state`; `rules` None means that tokens cannot be decoded one by one."""
        self._rules = rules
        self.strips_first_space = strips_first_space

    @classmethod
    def from_state(cls, decoder: object) -> "PieceDecoder":
        """Read the configuration of a `tokenizers` decoder (None: tokens are plain text)."""
        if decoder is None:
            return cls(())
        state: dict[str, Any] = json.loads(cast("Any", decoder).__getstate__())
        stages = cast("list[dict[str, Any]]", state.get("decoders", [state]))
        rules: list[_Rule] = []
        strips = False
        for stage in stages:
            kind = stage.get("type")
            if kind == "Strip":
                strips = strips or (stage.get("content") == " " and stage.get("start", 0) > 0)
            elif kind == "Metaspace":
                rules.append(_replace(str(stage.get("replacement", "\u2581")), " "))
                strips = strips or stage.get("prepend_scheme", "always") != "never"
            elif kind == "Replace" and isinstance(text := stage["pattern"].get("String"), str):
                rules.append(_replace(text, str(stage.get("content", ""))))
            elif kind == "ByteFallback":
                rules.append(_byte_fallback)
            elif kind == "ByteLevel":
                rules.append(_byte_level)
            elif kind != "Fuse":
                return cls(None)
        return cls(tuple(rules), strips)

    def piece(self, text: str) -> bytes | None:
        """Return the bytes of a token, or None when this decoder needs whole texts."""
        if self._rules is None:
            return None
        for rule in self._rules:
            result = rule(text)
            if isinstance(result, bytes):
                return result
            if result is not None:
                text = result
        return text.encode()


def _replace(old: str, new: str) -> _Rule:
    return lambda text: text.replace(old, new)


def _byte_fallback(text: str) -> bytes | None:
    match = _BYTE.fullmatch(text)
    return bytes([int(match[1], 16)]) if match else None


def _byte_level(text: str) -> bytes:
    """Bytes of the characters; a token with any other character is text as it stands."""
    spelled: Iterable[int | None] = map(BYTE_CHARACTERS.get, text)
    values = [value for value in spelled if value is not None]
    return bytes(values) if len(values) == len(text) else text.encode()
