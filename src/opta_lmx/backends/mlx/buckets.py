"""Which batch a row joins, so that short rows do not pay for a long one's padding. Pure.

A batch pads its rows to the longest, in memory and in time. A second batch costs another reading
of the weights at every step instead, which is cheaper once padding takes more bytes than they.
"""

from collections.abc import Callable, Sequence

_GRAIN = 8
"""Differences in padding below this part of what is allowed do not matter."""


def padding(lengths: Sequence[int], at: Callable[[int], int]) -> int:
    """Bytes that rows of so many tokens take in one batch beyond what each needs."""
    return len(lengths) * at(max(lengths)) - sum(map(at, lengths)) if lengths else 0


def choose(
    batches: Sequence[Sequence[int]], tokens: int, at: Callable[[int], int], spare: int
) -> int:
    """Choose the batch of a row of `tokens`.

    Of those where it adds next to the least padding the fullest is taken, so that one that has
    become needless runs out of rows.

    Args:
        batches: lengths of the rows in each, in tokens.
        tokens: of the new row.
        at: bytes of a row of so many tokens.
        spare: bytes that all padding together may take.

    Returns:
        An index into `batches`, of an empty one or `len(batches)` where it must be alone.
    """
    before = [padding(lengths, at) for lengths in batches]
    room = spare - sum(before)
    ranked: list[tuple[int, int, int]] = []
    for index, lengths in enumerate(batches):
        more = padding([*lengths, tokens], at) - before[index]
        if lengths and more <= room:
            ranked.append((more * _GRAIN // max(1, spare), -len(lengths), index))
    if ranked:
        return min(ranked)[2]
    return next((i for i, lengths in enumerate(batches) if not lengths), len(batches))
