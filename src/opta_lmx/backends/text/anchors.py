"""Where the anchors of a prompt lie among its tokens: points its author means to return to.

An anchor is an offset in a message, and templates are free in what they make of a message: what
lies before it is looked for in the rendered text, and one that is not found there is none.
"""

from collections.abc import Callable, Iterator, Sequence

from opta_lmx.core.types import Message

_MOST = 4
"""Anchors that are looked at, the last ones: each costs the tokenizer one more reading."""
_MISSES = 8
"""Messages not found in the text after which no more is looked for: each costs a whole reading."""


def anchor_tokens(
    text: str,
    ids: Sequence[int],
    messages: Sequence[Message],
    encode: Callable[[str], Sequence[int]],
) -> tuple[int, ...]:
    """Offsets in `ids` of the anchors, rising: as many tokens as lie before each for certain.

    Args:
        text: the prompt as rendered.
        ids: its tokens.
        messages: what it was rendered from; their order is the text's.
        encode: how `ids` was made of `text`.
    """
    found: set[int] = set()
    for end in list(_ends(text, messages))[-_MOST:]:
        # A token may reach over the anchor: only those that the text before it has too are sure.
        before = encode(text[:end])
        found.add(_common(before, ids))
    return tuple(sorted(found - {0}))


def _ends(text: str, messages: Sequence[Message]) -> Iterator[int]:
    """Where in the text the anchors are."""
    at, misses = 0, 0
    last = max((n for n, message in enumerate(messages) if message.anchors), default=-1)
    for message in messages[: last + 1]:
        start = _find(message.content, text, at)
        for anchor in message.anchors:
            # Words that the template has changed may still begin as they were.
            found = start if start >= 0 else _find(message.content[:anchor], text, at)
            if found >= 0 and message.content[:anchor].strip():
                yield found + len(message.content[:anchor].strip())
        misses += start < 0
        if misses > _MISSES:
            return
        at = start + len(message.content.strip()) if start >= 0 else at


def _find(said: str, text: str, at: int) -> int:
    """Where a message, or its beginning, stands; most templates strip its edges. -1: nowhere."""
    return text.find(said.strip(), at)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((at for at, (mine, its) in enumerate(pairs) if mine != its), shorter)
