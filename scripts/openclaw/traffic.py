"""What a request consists of, and how it differs from what is known to be sent."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

# Below these is what the user or a tool's author wrote, not OpenClaw's protocol.
_OPAQUE = ("parameters", "input_schema", "arguments", "metadata", "content[].input")
# The values of these name the kind of an item, so a new value is a new item.
_NAMING = frozenset({"type", "role"})


@dataclass(frozen=True)
class Known:
    """One kind of request as recorded before.

    Attributes:
        headers: names of headers, in lower case, that each such request bears.
        keys: top-level keys of each body.
        parts: everything else that was seen in a body, as `shape` writes it.
    """

    headers: frozenset[str]
    keys: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Seen:
    """One request reduced to names: method and path, header names, parts of the body."""

    call: str
    headers: frozenset[str]
    parts: frozenset[str]


def seen(method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> Seen:
    """Reduce a request to names."""
    names = frozenset(name.lower() for name, _ in headers)
    return Seen(f"{method} {path.partition('?')[0]}", names, frozenset(shape_of(body)))


def shape_of(body: bytes) -> set[str]:
    """`shape` of a JSON body; `not JSON` for anything else, nothing for no body."""
    if not body:
        return set()
    try:
        return set(shape(json.loads(body)))
    except ValueError:
        return {"not JSON"}


def shape(value: Any, prefix: str = "") -> Iterator[str]:
    """Paths of all keys: `messages[].content[].type=text`; lists of lists are one."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from shape(item, prefix if prefix.endswith("[]") else f"{prefix}[]")
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            path = f"{prefix}.{key}" if prefix else key
            named = key in _NAMING and isinstance(inner, str)
            yield f"{path}={inner}" if named else path
            if not path.endswith(_OPAQUE):
                yield from shape(inner, path)


def drift(requests: Iterable[Seen], known: dict[str, Known]) -> list[str]:
    """What is new, and what is no longer sent, one line each, each said once.

    Args:
        requests: what was recorded.
        known: the kinds of request there are, by method and path.
    """
    found: dict[str, None] = {}
    for request in requests:
        kind = known.get(request.call)
        if kind is None:
            found[f"{request.call}: a request not known before"] = None
            continue
        found |= dict.fromkeys(f"{request.call}: {line}" for line in _differences(request, kind))
    return list(found)


def _differences(request: Seen, kind: Known) -> Iterator[str]:
    for name in sorted(request.headers - kind.headers):
        yield f"new header {name}"
    for part in sorted(request.parts - kind.keys - kind.parts):
        yield f"new in the body: {part}"
    for name in sorted(kind.headers - request.headers):
        yield f"header {name} is not sent"
    for key in sorted(kind.keys - request.parts):
        yield f"not in the body: {key}"
