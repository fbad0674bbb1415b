"""Log-probabilities of tokens in OpenAI's chat shape."""

from collections.abc import Sequence

import msgspec

from opta_lmx.core.types import TokenEvent

UNKNOWN_LOGPROB = -9999.0
"""OpenAI's word for a token so unlikely, or so placed, that no number was measured."""


class _Top(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """One token with its best alternatives, best first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[_Top]


def token_logprobs(tokens: Sequence[TokenEvent]) -> list[TokenLogprob]:
    """The entries of `logprobs.content`."""
    return [_entry(token) for token in tokens]


def _entry(token: TokenEvent) -> TokenLogprob:
    top = [_Top(_text(one.piece), one.logprob, [*one.piece]) for one in token.top or ()]
    logprob = UNKNOWN_LOGPROB if token.logprob is None else token.logprob
    return TokenLogprob(_text(token.piece), logprob, [*token.piece], top)


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
