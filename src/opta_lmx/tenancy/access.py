"""Which names a key's patterns let it use."""

from collections.abc import Iterable


def allows(patterns: Iterable[str] | None, name: str) -> bool:
    """Whether a name is among the patterns; None for patterns allows every name.

    A pattern may itself be asked about: one that is allowed names nothing that is not.
    """
    return patterns is None or any(matches(pattern, name) for pattern in patterns)


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is the pattern's text, with any run of characters for each `*`.

    Parts are looked for from left to right, once each: no pattern takes long.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return name == first
    *middle, last = rest
    at, end = len(first), len(name) - len(last)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
