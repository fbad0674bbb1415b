"""What it would cost to lose a stored state: the measure by which eviction chooses."""

from collections.abc import Callable, Iterator
from itertools import islice

from opta_lmx.engine.prefix.entries import Entry
from opta_lmx.engine.prefix.rules import CacheRules
from opta_lmx.engine.prefix.tree import Node, below

Usable = Callable[[Entry], bool]

_PASSED_BY = 0.125
"""Interest that remains in a state from which a later request went on to a longer one.

One in a conversation's first prompt keeps all of it: others will begin like that one.
"""
_TOLD = 4
"""How much likelier a place that its caller named is returned to than one that was guessed."""
_BRANCHES = 3
"""Ways on that are told apart."""


def worth(entry: Entry, rules: CacheRules, now: float, usable: Usable) -> float:
    """Expected seconds of prefill lost per byte freed, if `entry` is lost and the rest stays.

    `usable` says which of the other entries count as a replacement.
    """
    measure = _covered_alone if rules.trimmable else _exact
    return measure(entry, rules, now, usable) / max(1, entry.size)


def yielding(free: int, states: Iterator[tuple[float, int]]) -> Callable[[float], int]:
    """Says what could be made free by losing only what is worth less, in seconds a byte.

    Args:
        free: bytes that could be made free by losing all that may go.
        states: of each that may go its worth and bytes; looked at once, and only when asked.
    """
    known: list[tuple[float, int]] = []

    def measure(gain: float) -> int:
        known.extend(states)
        return free - sum(size for worth, size in known if worth >= gain)

    return measure


def _covered_alone(entry: Entry, rules: CacheRules, now: float, usable: Usable) -> float:
    """Trimmable: what no other entry covers, each run weighted by the requests that share it."""
    if next(_nearest_below(entry.node, usable), None) is not None:
        return 0.0
    total, node = 0.0, entry.node
    while (parent := node.parent) is not None:
        heat = node.heat.at(now, rules.half_life_s)
        total += heat * rules.seconds(parent.depth, node.depth)
        if _has_other(parent, node, usable):
            break
        node = parent
    return total


def _has_other(parent: Node, child: Node, usable: Usable) -> bool:
    """True when `parent`'s prefix is stored on another way than through `child`."""
    if parent.entry is not None and usable(parent.entry):
        return True
    others = (other for other in parent.children.values() if other is not child)
    return any(_first(other, usable) for other in others)


def _exact(entry: Entry, rules: CacheRules, now: float, usable: Usable) -> float:
    """Not trimmable: who would have used it falls back to the next shorter entry."""
    start, above = 0, entry.node.parent
    while above is not None:
        if above.entry is not None and usable(above.entry):
            start = above.depth
            break
        above = above.parent
    return rules.seconds(start, entry.tokens) * _interest(entry, rules, now, usable)


def _interest(entry: Entry, rules: CacheRules, now: float, usable: Usable) -> float:
    """Uses to expect."""
    uses = _uses(entry, rules, now, usable)
    return uses * _TOLD if entry.source.told else uses


def _uses(entry: Entry, rules: CacheRules, now: float, usable: Usable) -> float:
    """Uses seen: those that come through and find no longer entry."""
    through = entry.node.heat.at(now, rules.half_life_s)
    direct = entry.heat.at(now, rules.half_life_s)
    on = list(islice(_nearest_below(entry.node, usable), _BRANCHES))
    if len(on) > 1:
        return max(direct, through * (1 - 1 / len(on)))
    passed_by = on and on[0].source.number > entry.source.number
    if passed_by and not entry.source.opens:
        return direct * _PASSED_BY
    return direct if on else max(through, direct)


def _nearest_below(node: Node, usable: Usable) -> Iterator[Entry]:
    """The first usable entry of each way on from `node`."""
    pending = list(node.children.values())
    while pending:
        at = pending.pop()
        if at.entry is not None and usable(at.entry):
            yield at.entry
        else:
            pending.extend(at.children.values())


def _first(node: Node, usable: Usable) -> Entry | None:
    return next((at.entry for at in below(node) if at.entry is not None and usable(at.entry)), None)
