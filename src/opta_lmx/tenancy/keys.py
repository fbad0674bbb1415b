"""The text of a key: how one is made, known by its looks, and compared."""

import hashlib
import re

import msgspec

from opta_lmx.core.ids import random_id

PREFIX = "lmx_"
ID_CHARS = 8
SECRET_CHARS = 43
"""Drawn from 62 characters: 256 bits."""
_TEXT = re.compile(rf"{PREFIX}([A-Za-z0-9]{{{ID_CHARS}}})_[A-Za-z0-9]{{{SECRET_CHARS}}}")


class Minted(msgspec.Struct, frozen=True):
    """A new key: its public id, and the whole text that opens the door."""

    id: str
    secret: str


def mint() -> Minted:
    """Draw a key: `lmx_`, 8 characters of id, `_`, 43 of secret, all letters and digits."""
    key_id = random_id(length=ID_CHARS)
    return Minted(key_id, f"{PREFIX}{key_id}_{random_id(length=SECRET_CHARS)}")


def parse(text: str) -> str | None:
    """The id in the text of a key; None for any other text."""
    found = _TEXT.fullmatch(text)
    return found[1] if found else None


def digest(text: str) -> bytes:
    """What is kept of a key in its stead: SHA-256 of its whole text, as 64 hexadecimal digits.

    One fast round is enough: nobody can try 2^256 texts, and every request is checked this way.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest().encode()
