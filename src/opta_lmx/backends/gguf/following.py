"""Checks byte by byte that an answer keeps to its grammar, whoever generates it."""

from functools import cache, lru_cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from opta_lmx.backends.compiling import UNUSABLE

_LIMITS = LLParserLimits(verbose_errors=False)
_BYTES = 256


class _ByteVocabulary:
    """What `LLTokenizer` asks of a tokenizer: each byte is a token."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = _BYTES
    special_token_ids = (_BYTES,)
    tokens = (*(bytes([value]) for value in range(_BYTES)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def byte_words() -> LLTokenizer:
    """Return the vocabulary of single bytes; token 256 ends an answer."""
    return LLTokenizer(_ByteVocabulary(), slices=[])  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=8)
def _compiled(grammar: str) -> LLMatcher:
    """Kept for one request's answers and a conversation's turns; each follows a copy."""
    return LLMatcher(byte_words(), grammar, limits=_LIMITS, log_level=0)


class GrammarFollower:
    """Follows one answer. `error` says why the grammar itself cannot be used; empty if it can."""

    def __init__(self, grammar: str) -> None:
        """`grammar` is Lark text as `codec.constraints` writes it, marks as plain text."""
        self._matcher: Any = _compiled(grammar).deep_copy()
        self.error = ""
        if self._matcher.is_error():
            self.error = f"the grammar cannot be used: {UNUSABLE}"

    def take(self, text: bytes) -> bool:
        """Take the next bytes of the answer; False when they do not fit."""
        return not text or bool(self._matcher.try_consume_tokens(list(text)) == len(text))

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())
