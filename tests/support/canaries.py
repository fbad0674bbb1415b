"""Secrets that are known again wherever they turn up, however they are spelt there."""

import base64
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

_CONTEXT = 60


def drawn() -> str:
    """The core of a canary: 24 hexadecimal digits that stand nowhere else."""
    return uuid.uuid4().hex[:24]


class Canary(NamedTuple):
    """A secret.

    Attributes:
        name: what it is, for reports.
        core: letters and digits that stand nowhere else; in whatever text carries it.
    """

    name: str
    core: str

    def spellings(self) -> dict[str, bytes]:
        """How it may be spelt: as it is, in any case, in hexadecimal, in base64 at any place."""
        plain = self.core.encode()
        found = {"plain": plain, "hex": plain.hex().encode(), "reversed": plain[::-1]}
        for shift, lead in ((0, 0), (1, 2), (2, 3)):
            coded = base64.b64encode(b"x" * shift + plain).rstrip(b"=")
            ends_inside = (shift + len(plain)) % 3 != 0
            found[f"base64 at {shift}"] = coded[lead : -1 if ends_inside else None]
        return found


def sightings(data: bytes, canaries: list[Canary]) -> Iterator[str]:
    """Where any of them stands in some bytes: which, how it is spelt, and what is around it."""
    low = data.lower()
    for canary in canaries:
        for spelling, needle in canary.spellings().items():
            exact = spelling.startswith("base64")
            at = data.find(needle) if exact else low.find(needle.lower())
            if at >= 0:
                around = data[max(0, at - _CONTEXT) : at + len(needle) + _CONTEXT]
                yield f"{canary.name} ({spelling}): …{around!r}…"


def stained(value: Any, text: str) -> Any:
    """A JSON value in which every string that callers write for models is the text, or has it."""
    if isinstance(value, dict):
        return {
            name: _stain(inner, text) if name in _WORDS else stained(inner, text)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [stained(inner, text) for inner in value]
    return value


def _stain(value: Any, text: str) -> Any:
    if isinstance(value, str):
        return f"{text} {value}"
    if isinstance(value, list):
        return [_stain(inner, text) for inner in value]
    return stained(value, text)


_WORDS = frozenset(
    [
        "content",
        "text",
        "input",
        "prompt",
        "query",
        "documents",
        "instructions",
        "system",
        "suffix",
        "output",
        "thinking",
        "description",
        "title",
        "summary",
        "refusal",
        "arguments",
        "stop",
        "messages",
    ]
)
