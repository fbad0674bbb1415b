"""Joins the byte pieces of tokens into text without ever breaking a code point."""

import codecs


class Utf8Joiner:
    """Incremental UTF-8 decoder: pieces in, text out.

    The concatenated output equals `b"".join(pieces).decode("utf-8", "replace")`, however the
    bytes were split: an incomplete sequence waits (at most 3 bytes), an invalid one becomes
    U+FFFD.
    """

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, piece: bytes) -> str:
        """Return the text that is certain after `piece`."""
        if not self._pending and piece.isascii():
            return piece.decode("ascii")
        data = self._pending + piece
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text

    def finish(self) -> str:
        """Return what an unfinished sequence at the end decodes to (U+FFFD or nothing)."""
        text, _ = codecs.utf_8_decode(self._pending, "replace", True)
        self._pending = b""
        return text
