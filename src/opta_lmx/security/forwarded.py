"""Who a request comes from, when proxies stand between: `Forwarded` and `X-Forwarded-For`.

Each proxy appends the address it was asked from, so only what stands to the right was written by
those that are trusted; what a client sends itself stands to the left of it.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.security.addresses import Address, Networks, address_of, peer_address

__all__ = ["MAX_HOPS", "Networks", "client_address"]

MAX_HOPS = 32
"""Proxies behind one another that are looked at."""

_BLANK = " \t"
_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?|([0-9A-Fa-f:.]+)"
)
_PARAMETER = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^ \t";,=]*)[ \t]*(?:;|$)"""
)
_ESCAPED = re.compile(r"\\(.)")

_Hops = list[Address | None]


def client_address(
    peer: str, forwarded: Sequence[str], x_forwarded_for: Sequence[str], trusted: Networks
) -> str:
    """Return the nearest address that no trusted proxy has, or the farthest of theirs.

    A hop that is hidden (`unknown`, `_x`) or malformed ends the walk at the proxy that wrote it.

    Args:
        peer: the other end of the connection; returned as it is where it is no address.
        forwarded: every `Forwarded` header (RFC 7239), in order.
        x_forwarded_for: every `X-Forwarded-For` header, in order.
        trusted: proxies whose word counts.

    Raises:
        LmxError: INVALID_REQUEST (`forwarded_conflict`); the two headers lead to different
            addresses. A proxy writes one of them and may let a client's own pass in the other,
            and nothing tells which: whatever were chosen, some client could choose it.
    """
    start = peer_address(peer)
    if start is None:
        return peer
    if start not in trusted:
        return str(start)
    chains = (_forwarded_hops(forwarded), _x_forwarded_hops(x_forwarded_for))
    ends = {_walk(start, hops, trusted) for hops in chains if hops}
    if len(ends) > 1:
        raise _conflict()
    return str(ends.pop() if ends else start)


def _walk(start: Address, hops: _Hops, trusted: Networks) -> Address:
    """Follow hops, the nearest first, as far as trusted proxies vouch for them."""
    at = start
    for hop in hops:
        if hop is None or at not in trusted:
            break
        at = hop
    return at


def _x_forwarded_hops(headers: Sequence[str]) -> _Hops:
    """The nearest first; None for one that is no address."""
    parts = (part for value in reversed(headers) for part in reversed(value.split(",")))
    return [_address(part) for part in _first(parts)]


def _forwarded_hops(headers: Sequence[str]) -> _Hops:
    """The nearest first; None for one that is no address. Empty where no element has a `for`."""
    parts = (part for value in reversed(headers) for part in _elements(value))
    read = [_parameters(part) for part in _first(parts)]
    if all(fields is not None and "for" not in fields for fields in read):
        return []  # `Forwarded: proto=https` says nothing of addresses
    return [None if fields is None else _address(fields.get("for", "")) for fields in read]


def _first(parts: Iterator[str]) -> Iterator[str]:
    return islice((part.strip(_BLANK) for part in parts if part.strip(_BLANK)), MAX_HOPS)


def _elements(value: str) -> Iterator[str]:
    """Split at the commas outside quotes, from the right.

    From the left, a quote that a client leaves open would swallow what a proxy appends.
    """
    end = len(value)
    quoted = False
    for place in range(len(value) - 1, -1, -1):
        char = value[place]
        if char == '"':
            quoted = not quoted or _is_escaped(value, place)
        elif char == "," and not quoted:
            yield value[place + 1 : end]
            end = place
    yield value[:end]


def _is_escaped(value: str, place: int) -> bool:
    first = place
    while first and value[first - 1] == "\\":
        first -= 1
    return (place - first) % 2 == 1


def _parameters(element: str) -> dict[str, str] | None:
    """`for=192.0.2.1;proto=http` as a dictionary; None where it is malformed."""
    fields: dict[str, str] = {}
    place = 0
    while place < len(element):
        found = _PARAMETER.match(element, place)
        if found is None or found[1].lower() in fields:
            return None
        text = found[2]
        quoted = text.startswith('"')
        fields[found[1].lower()] = _ESCAPED.sub(r"\1", text[1:-1]) if quoted else text
        place = found.end()
    return fields


def _address(node: str) -> Address | None:
    """The address of a hop, without its port and brackets; None where it tells none."""
    found = _NODE.fullmatch(node)
    return None if found is None else address_of(found[1] or found[2] or found[3])


def _conflict() -> LmxError:
    return invalid(
        "The headers 'Forwarded' and 'X-Forwarded-For' lead to different addresses. "
        "The proxy must remove the one that it does not write itself.",
        code="forwarded_conflict",
    )
