"""Which points of a prompt are worth a checkpoint.

What a later prompt shares with this one is not known yet. It will mostly end where a turn starts,
or a little before the end of a message: clients end requests with a volatile message that they do
not keep, and put what differs between conversations at the end of the system text. Some clients
say themselves up to where they will repeat a prompt: those places come first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest

import msgspec

from opta_lmx.engine.prefix.rules import CacheRules

Yielding = Callable[[float], int]
"""The bytes that could be made free by losing only what is worth less, in seconds per byte."""

_LAST_CUTS = 3
_SPREAD = (0.1, 0.02, 0.0)
"""How far apart checkpoints should be, as a part of their length: coarse first."""
_FEW = 1
"""Guesses inside messages, at least, where a conversation begins with a cached part."""
_HEADER = 16
"""Tokens that open the answer, at most; what differs comes before them."""


class Prompt(msgspec.Struct, frozen=True):
    """A prompt of `length` tokens of which `start` are cached and `shared` were seen before.

    `cuts` are the offsets at which turns start; `tail` is how many tokens at the end of the
    conversation's last prompt were not kept in this one (None: not known). `anchors` are offsets
    that the caller named. `opens`: it is the first prompt of its conversation.
    """

    length: int
    start: int
    shared: int
    cuts: Sequence[int]
    tail: int | None
    anchors: Sequence[int] = ()
    opens: bool = False


def checkpoints(prompt: Prompt, rules: CacheRules) -> list[int]:
    """Lengths of the prefixes to keep, the most valuable first; without the answer's end."""
    find = _for_leading if rules.trimmable else _for_exact
    first = max(prompt.start + rules.min_gain, rules.min_tokens)
    named = [] if rules.trimmable else sorted(prompt.anchors, reverse=True)
    wanted = list(find(prompt, rules))
    passes = [(0.0, named), *((share, wanted) for share in _SPREAD)]
    found: list[int] = []
    # Where there is room for few, they should not lie side by side.
    for share, points in passes:
        for point in points:
            if not first <= point < prompt.length:
                continue
            gap = max(rules.min_gain, int(share * point))
            if all(abs(point - other) >= gap for other in found):
                found.append(point)
    return found[: rules.max_keeps]


def affordable(
    prompt: Prompt, own_tail: int | None, rules: CacheRules, room: int, yielding: Yielding
) -> list[int]:
    """The checkpoints that fit into `room` bytes; the prompt's length means the answer's end.

    `own_tail` is the tail of this very conversation. An end that serves the next turn for sure
    goes before everything else; one that cannot serve it is not kept.

    The best one is let in whatever has to go for it. Where prompts share what nobody has seen
    shared yet, the others are guesses: they do not push out what is worth more.
    """
    points = checkpoints(prompt, rules)
    if prompt.length >= rules.min_tokens:
        if rules.trimmable or own_tail == 0:
            points.insert(0, prompt.length)
        elif own_tail is None:
            points.append(prompt.length)
    found: list[int] = []
    taken = 0
    for tokens in points:
        size = rules.size(tokens)
        if taken + size > room:
            continue
        if found and not rules.trimmable:
            start = max((one for one in (prompt.start, *found) if one < tokens), default=0)
            if taken + size > yielding(rules.seconds(start, tokens) / max(1, size)):
                continue
        taken += size
        found.append(tokens)
    return found


def _for_leading(prompt: Prompt, rules: CacheRules) -> Iterator[int]:
    """Trimmable: the answer's end serves later turns; others in flight need something sooner."""
    last = prompt.length - 1
    if last - prompt.start < rules.lead_tokens:
        return
    yield last
    ends = [prompt.shared, *_inside(prompt.cuts, prompt.start, last)[:1]]
    for point in ends:
        if min(point - prompt.start, last - point) >= rules.lead_tokens:
            yield point


def _for_exact(prompt: Prompt, rules: CacheRules) -> Iterator[int]:
    """Not trimmable: every length that may be wanted must be stored itself."""
    end = prompt.length - _HEADER
    if prompt.tail:
        end = prompt.length - prompt.tail - rules.tail_slack
        yield end
    cuts = _inside(prompt.cuts, prompt.start, end)
    yield from reversed(cuts[-_LAST_CUTS:])
    yield from cuts[:1]
    if prompt.shared < end:
        yield prompt.shared
    starts, ends = [prompt.start, *cuts], [*cuts, prompt.length]
    ladders = [list(_ladder(start, end, rules)) for start, end in zip(starts, ends, strict=True)]
    guesses = chain(_in_turn(ladders[:0:-1][:1] + ladders[:1]), _in_turn(ladders[-2:0:-1]))
    most = _FEW + (prompt.length - prompt.start) // rules.stop_every
    yield from islice(guesses, most if prompt.opens and prompt.start else None)


def _in_turn(ladders: list[list[int]]) -> Iterator[int]:
    """The first rung of each, then the second ones, and so on."""
    for rungs in zip_longest(*ladders):
        yield from (rung for rung in rungs if rung is not None)


def _ladder(start: int, end: int, rules: CacheRules) -> Iterator[int]:
    """From a message's end backwards, in steps that grow up to the stride."""
    back = float(rules.first_step)
    while (point := end - int(back)) - start >= rules.min_gain:
        yield point
        back += min(back * (rules.growth - 1), rules.stride)


def _inside(cuts: Iterable[int], low: int, high: int) -> list[int]:
    return sorted({cut for cut in cuts if low < cut < high})
