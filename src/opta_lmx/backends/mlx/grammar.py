"""Grammars over a model's vocabulary: compiled on a thread of their own, then asked per token.

The vocabulary is the bytes that `HfTokenizer.piece` gives, so a grammar holds exactly the text
that the answer will be. Tokens without text (control tokens) fit no grammar, save those that
end an answer and marks that a grammar names.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from opta_lmx.backends.compiling import UNUSABLE, Compilation, Compiler
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.codec.constraints import resolve

LIMITS = LLParserLimits(verbose_errors=False)
_REMEMBERED = 8
"""Grammars kept compiled: one request's answers and a conversation's turns share theirs."""
_NO_TEXT = b"<none>"
_BROKEN = "a token did not fit, or the grammar asks too much at this place"


class GrammarError(Exception):
    """A grammar broke off; the message is for the caller."""


class Compiled(msgspec.Struct, frozen=True):
    """A request's grammar is ready after `took_s`; or `error` says why it cannot be used."""

    request: int
    took_s: float
    matcher: Any = None
    error: str = ""


class _Vocabulary:
    """What `LLTokenizer` asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: HfTokenizer, size: int) -> None:
        pieces = [tokenizer.piece(token) for token in range(size)]
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eos_ids, default=size - 1)
        self.special_token_ids = [
            token for token, piece in enumerate(pieces) if not piece or token in tokenizer.eos_ids
        ]
        self.tokens = [piece or _NO_TEXT for piece in pieces]

    def __call__(self, text: str | bytes) -> list[int]:
        written = text.decode(errors="replace") if isinstance(text, bytes) else text
        return self._tokenizer.encode(written, add_special=False)


class Grammars:
    """Compiles grammars in the background, in order.

    Args:
        tokenizer: the model's.
        size: tokens of the model's output, which may be more than the tokenizer names.
    """

    def __init__(self, tokenizer: HfTokenizer, size: int) -> None:
        """Reads the whole vocabulary: 0.1 s for 50,000 tokens, 1 s for 260,000."""
        self._tokenizer = tokenizer
        self._words = LLTokenizer(
            _Vocabulary(tokenizer, size),  # pyright: ignore[reportArgumentType]
            n_vocab=size,
            eos_token=[token for token in sorted(tokenizer.eos_ids) if token < size] or None,
            slices=[],
        )
        self._compiler = Compiler(self._known)
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def ask(self, request: int, grammar: str) -> None:
        """Begin compiling; `take` returns the result."""
        self._compiler.ask(request, grammar)

    def forget(self, request: int) -> None:
        """Nobody waits for this request's grammar any more."""
        self._compiler.forget(request)

    def take(self, wait_s: float) -> list[Compiled]:
        """Return what is ready, waiting up to `wait_s` for the first."""
        return [_compiled(done) for done in self._compiler.take(wait_s)]

    def compile(self, grammar: str) -> Any:
        """Return a matcher; ask it whether it is in error."""
        return LLMatcher(self._words, resolve(grammar, self._special), limits=LIMITS, log_level=0)

    def _known(self, grammar: str) -> Any:
        """A matcher of its own for one answer; for the thread alone."""
        if grammar not in self._compiled:
            made = self.compile(grammar)
            if made.is_error():
                return made
            self._compiled[grammar] = made
            if len(self._compiled) > _REMEMBERED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return self._compiled[grammar].deep_copy()

    def _special(self, mark: str) -> int | None:
        token = self._tokenizer.token_id(mark)
        return None if token is None or self._tokenizer.piece(token) else token


def _compiled(done: Compilation[Any]) -> Compiled:
    matcher = done.made
    if not matcher.is_error():
        return Compiled(done.request, done.took_s, matcher)
    return Compiled(done.request, done.took_s, error=UNUSABLE)


class Follower:
    """Follows one answer through its grammar.

    Args:
        matcher: of `Grammars`; no other request's.
        size: tokens of the model's output.
        ends: tokens that may end an answer.
    """

    def __init__(self, matcher: Any, size: int, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._size = size
        self._bits = np.zeros((size + 31) // 32, dtype=np.uint32)
        self._end = np.zeros_like(self._bits)
        for token in ends:
            self._end[token // 32] |= np.uint32(1 << token % 32)

    def take(self, token: int) -> None:
        """Note the token that was generated. Raises GrammarError."""
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token):
            raise GrammarError(_BROKEN)

    def allowed(self) -> Any:
        """Return which tokens may follow, as bits of 32-bit words. Raises GrammarError."""
        if self._matcher.is_stopped():
            if self._matcher.is_error():
                raise GrammarError(_BROKEN)
            return self._end
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise GrammarError(_BROKEN)
        return self._bits

    def ends(self) -> Any:
        """The tokens that may end an answer, as bits."""
        return self._end
