"""Which stored state serves a prompt best."""

from collections.abc import Iterator

from opta_lmx.engine.prefix.entries import Entry
from opta_lmx.engine.prefix.rules import CacheRules
from opta_lmx.engine.prefix.tree import Node, Path, below


def best_entry(
    path: Path, usable: int, trimmable: bool, *, on_disk: bool = False
) -> tuple[Entry | None, int]:
    """The state that holds most of a prompt, and how many of the prompt's tokens.

    Args:
        path: the prompt's way down the tree.
        usable: the most tokens that may be reused.
        trimmable: a state serves shorter prefixes of itself too.
        on_disk: look for states that are read from disk first, not for those in memory.
    """
    find = _covering if trimmable else _exact
    for entry in find(path, usable):
        if _fits(entry, on_disk):
            return entry, usable_tokens(entry, path, usable)
    return None, 0


def usable_tokens(entry: Entry, path: Path, usable: int) -> int:
    """How many of a prompt's tokens a state holds."""
    return max(0, min(path.shared_with(entry.node), usable))


def worth_loading(path: Path, usable: int, cached: int, rules: CacheRules) -> Entry | None:
    """The state on disk, or on its way from it, that is quicker to read than to compute.

    `cached` tokens are in memory anyway.
    """
    if not rules.disk_bytes:
        return None
    entry, tokens = best_entry(path, usable, rules.trimmable, on_disk=True)
    if entry is None or tokens - cached < rules.min_gain:
        return None
    return entry if rules.seconds(cached, tokens) > entry.size / rules.disk_rate else None


def _fits(entry: Entry, on_disk: bool) -> bool:
    if on_disk:
        return entry.moving == "load" or (entry.name is not None and not entry.handle)
    return entry.usable


def _exact(path: Path, usable: int) -> Iterator[Entry]:
    """States of exactly a prefix, the longest first."""
    limit = min(usable, path.tokens)
    for node in reversed(path.nodes):
        if node.depth <= limit and node.entry is not None:
            yield node.entry


def _covering(path: Path, _: int) -> Iterator[Entry]:
    """States that share most with the prompt first; of those in one branch the shorter first."""
    seen: Node | None = None
    for node in reversed(path.nodes):
        for at in below(node, but=seen):
            if at.entry is not None:
                yield at.entry
        seen = node
