"""Walks through a grammar at random, byte by byte: an engine without a model."""

import random

from llguidance import LLMatcher

from opta_lmx.backends.gguf.following import byte_words

END = 256


def matcher(grammar: str) -> LLMatcher:
    """A fresh matcher over bytes; the grammar must be sound."""
    made = LLMatcher(byte_words(), grammar, log_level=0)
    assert not made.is_error(), made.get_error()
    return made


def accepts(grammar: str, text: str) -> bool:
    """Whether the whole text fits the grammar."""
    walker, data = matcher(grammar), text.encode()
    return walker.try_consume_tokens(list(data)) == len(data) and walker.is_accepting()


def begins(grammar: str, text: str) -> bool:
    """Whether the text may be the beginning of an answer."""
    data = text.encode()
    return matcher(grammar).try_consume_tokens(list(data)) == len(data)


def walk(grammar: str, seed: int, longest: int = 400) -> str | None:
    """One random answer; None when it did not end by itself in `longest` bytes.

    Bytes that end strings and lists are likelier, so that most walks end.
    """
    draw, walker, out = random.Random(seed), matcher(grammar), bytearray()
    while len(out) < longest:
        mask = walker.compute_bitmask()
        choices = [at for at in range(END + 1) if mask[at // 8] >> at % 8 & 1]
        assert choices, f"nothing can follow {bytes(out)!r}"
        closing = [at for at in choices if at in _CLOSING]
        token = draw.choice(closing if closing and draw.random() < _HASTE else choices)
        if token == END:
            return out.decode()
        out.append(token)
        assert walker.consume_token(token)
    return None


_CLOSING = frozenset((*b'"]}', END))
_HASTE = 0.4
