"""Byte-pair merges for a SentencePiece vocabulary, which has scores instead. Pure.

SentencePiece joins the neighbours whose joined text has the best score, the leftmost first;
byte-pair encoding joins the pair listed first. Listing every way to split every token, best
score first, makes both do the same.
"""

from collections.abc import Iterator, Mapping


def derive_merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return merges, first to be applied first.

    Args:
        scores: every token text that may result from a merge or take part in one.
    """
    ranked: list[tuple[float, int, str, str]] = []
    for text, score in scores.items():
        # Among equal scores a longer left part goes first: with the leftmost rule a run of one
        # character grows from its left end.
        ranked += [(-score, -len(left), left, right) for left, right in _splits(text, scores)]
    ranked.sort()
    return [(left, right) for _, _, left, right in ranked]


def _splits(text: str, known: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Every way to cut a text into two known ones."""
    for cut in range(1, len(text)):
        left, right = text[:cut], text[cut:]
        if left in known and right in known:
            yield left, right
