"""Internet addresses in one spelling, and the networks that are trusted."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def address_of(text: str) -> Address | None:
    """Return the address; None for any other text.

    An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) is the IPv4 one. One with a zone
    (`fe80::1%eth0`) is none: zones name interfaces of the machine that wrote them.
    """
    if "%" in text:
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def peer_address(text: str) -> Address | None:
    """Return the address of the other end of a connection, as the kernel writes it."""
    return address_of(text.partition("%")[0])


class Networks:
    """A set of addresses.

    Args:
        networks: what it is made of; none: it is empty.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Self:
        """Read addresses and networks (`10.0.0.7`, `10.0.0.0/24`, `2001:db8::/32`).

        Raises:
            ValueError: one of them is neither, has bits beyond its prefix, or is every address.
        """
        return cls([_network(text) for text in texts])

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _network(text: str) -> Network:
    if "%" in text:
        raise ValueError(f"'{text}' is neither an address nor a network: it names an interface")
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is neither an address nor a network: {error}") from None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        plain = ipaddress.IPv4Address(int(found.network_address) & 0xFFFF_FFFF)
        found = ipaddress.IPv4Network((plain, found.prefixlen - _MAPPED.prefixlen))
    if found.prefixlen == 0:
        raise ValueError(f"'{text}' would trust every address")
    return found
