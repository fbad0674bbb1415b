"""Log-probabilities of tokens in the shape of text completions."""

import codecs
from collections.abc import Sequence

import msgspec

from opta_lmx.api.tokens import told_logprob
from opta_lmx.core.types import TokenEvent


class TextLogprobs(msgspec.Struct):
    """Four lists of one length; `text_offset` counts characters of the answer's text.

    `top_logprobs` is null where no alternatives were asked for.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class LogprobWriter:
    """Writes the tokens of one answer, in one go or piece by piece.

    Args:
        alternatives: how many likeliest tokens were asked for.
    """

    def __init__(self, alternatives: int) -> None:
        self._alternatives = alternatives
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def write(self, tokens: Sequence[TokenEvent]) -> TextLogprobs:
        """The entries of the next tokens."""
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.piece))
        return TextLogprobs(
            tokens=[_text(token.piece) for token in tokens],
            token_logprobs=[told_logprob(token.logprob) for token in tokens],
            top_logprobs=[_likeliest(token) for token in tokens] if self._alternatives else None,
            text_offset=offsets,
        )


def _likeliest(token: TokenEvent) -> dict[str, float]:
    """The alternatives, and the token itself where it is not among them."""
    found = {_text(one.piece): one.logprob for one in token.top or ()}
    found.setdefault(_text(token.piece), told_logprob(token.logprob))
    return found


def _text(piece: bytes) -> str:
    """A token's text; OpenAI's spelling for bytes that are no text by themselves."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
