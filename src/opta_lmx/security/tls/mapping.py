"""Whose a certificate is: the first rule that one of its names fits."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from opta_lmx.core.principal import Principal
from opta_lmx.security.tls.session import Names

Kind = Literal["uri", "dns", "subject"]

PREFIX = "cert."
"""Begins the name of a caller whose certificate named it: no key has it by accident."""
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,58}")


class Rule(msgspec.Struct, frozen=True):
    """Whose certificates with a certain name are.

    `pattern` is the whole name, or its beginning and a `*`. `named`: `owner` has its name; else
    what the `*` stands for becomes that, behind `PREFIX`, and must look like a name.
    """

    kind: Kind
    pattern: str
    owner: Principal
    named: bool = True


def identify(rules: Iterable[Rule], names: Names) -> Principal | None:
    """The owner by the first rule that fits; None where none does."""
    for rule in rules:
        for name in _of_kind(names, rule.kind):
            rest = remainder(rule.pattern, name, rule.kind)
            if rest is None:
                continue
            if rule.named:
                return rule.owner
            if _LABEL.fullmatch(rest):
                return msgspec.structs.replace(rule.owner, key=PREFIX + rest)
    return None


def remainder(pattern: str, name: str, kind: Kind) -> str | None:
    """What the `*` of a pattern stands for in a name, empty without one; None: it fits not."""
    if kind == "dns":  # in which case says nothing
        pattern, name = pattern.lower(), name.lower()
    if not pattern.endswith("*"):
        return "" if name == pattern else None
    head = pattern[:-1]
    return name[len(head) :] if name.startswith(head) and len(name) > len(head) else None


def is_gateway(patterns: Sequence[str], names: Names) -> bool:
    """Whether a certificate with these names is that of a proxy whose word counts."""
    return any(
        remainder(pattern, name, kind) is not None
        for pattern in patterns
        for kind in ("uri", "dns")
        for name in _of_kind(names, kind)
    )


def told_names(san: str, subject: str) -> Names:
    """The names of a certificate as a proxy tells them; empty text for what it does not."""
    if "://" in san:
        return Names(uris=(san,), subject=subject)
    return Names(dns=(san,) if san else (), subject=subject)


def _of_kind(names: Names, kind: Kind) -> Sequence[str]:
    if kind == "uri":
        return names.uris
    if kind == "dns":
        return names.dns
    return (names.subject,) if names.subject else ()
