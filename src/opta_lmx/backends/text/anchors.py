"""Where the anchors of a prompt lie among its tokens: points its author means to return to.

An anchor is an offset in a message, and templates are free in what they make of a message: what
lies before it is looked for in the rendered text, and one that is not found there is none.
"""

from collections.abc import Callable, Iterator, Sequence

from opta_lmx.core.types import Message

_MOST = 4
"""Anchors that are looked at, the last ones: each costs the tokenizer one more reading."""


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
    at = 0
    for message in messages:
        for anchor in message.anchors:
            # Most templates strip a message's edges.
            said = message.content[:anchor].strip()
            start = text.find(said, at) if said else -1
            if start >= 0:
                yield start + len(said)
        said = message.content.strip()
        start = text.find(said, at)
        at = start + len(said) if start >= 0 else at


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((at for at, (mine, its) in enumerate(pairs) if mine != its), shorter)
