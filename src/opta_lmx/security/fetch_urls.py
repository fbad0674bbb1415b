"""Which URLs and addresses may be fetched for a client.

One parser, that of httpx: what it read is checked, and what it read is asked for. No host name
goes from here to the connection, only an address that was checked, so that a text which two
programs would read differently leads nowhere but to where it was found to lead.
"""

import ipaddress
import re

import httpx

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.security.addresses import Address, Networks

MAX_URL_CHARS = 4096
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
"""A host name whose last part begins with a letter: all else might be read as an address."""
_MAX_NAME = 253
# What a URL may not hold as it is, among it everything that some reader takes for a slash.
_UNFIT = re.compile(r"[\x00-\x20\x7f-\xa0\\\"<>^`{|}\u2028\u2029\ufeff]")
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL_6 = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")
)
"""Tunnels (Teredo, 6to4, which lead to any IPv4 address), documentation, and other protocols."""
_SPECIAL_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
"""Everything IANA has set apart, metadata services (169.254.169.254) and carriers' NAT included."""


def refused_url(reason: str) -> LmxError:
    """The error of a URL that is not fetched; it tells no address."""
    return invalid(f"This URL is not fetched: {reason}.", code="url_refused")


def parse_url(text: str) -> httpx.URL:
    """Read an absolute URL; its host is in lower case, an international name in ASCII.

    Raises:
        LmxError: INVALID_REQUEST `url_refused`: it is none, not `http` or `https`, has a user or
            password, or a host that is neither a name nor an address in its plain spelling.
    """
    if len(text) > MAX_URL_CHARS:
        raise refused_url(f"it has more than {MAX_URL_CHARS} characters")
    if _UNFIT.search(text):
        raise refused_url("it holds blanks, backslashes or characters that must be escaped")
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError):
        raise refused_url("it is malformed") from None
    if url.scheme not in _PORTS or not text[len(url.scheme) :].startswith("://"):
        raise refused_url("only http:// and https:// are")
    if url.userinfo or "@" in _authority(text):
        raise refused_url("it holds a user or password")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise refused_url("its port is none")
    _check_host(host)
    return url


def _authority(text: str) -> str:
    return re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0]


def _check_host(host: str) -> None:
    """Refuse what is neither a name nor an address as everybody writes it.

    `127.1`, `0x7f.0.0.1`, `017700000001` and their like are addresses to some readers only.
    """
    if literal_address(host) is not None:
        return
    name = host.removesuffix(".")
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise refused_url("its host is neither a name nor a plain address")


def literal_address(host: str) -> Address | None:
    """The address that a host is; None for a name, and for unusual spellings of addresses."""
    try:
        return None if "%" in host else ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def port_of(url: httpx.URL) -> int:
    """The port that a URL leads to."""
    return url.port or _PORTS[url.scheme]


def has_usual_port(url: httpx.URL) -> bool:
    """Whether a URL leads to the port of its scheme, said or not."""
    return url.port in (None, _PORTS[url.scheme])


def may_be_asked(address: Address, allowed: Networks) -> bool:
    """Whether an address is on the public internet, or in a network that is allowed.

    An IPv4 address within IPv6 (mapped, or through NAT64) is judged as that address.
    """
    inner = _within(address)
    return inner in allowed or (inner != address and address in allowed) or _is_public(inner)


def _within(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    """By our own tables: those of the language change between its versions."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if address.scope_id is not None:
        return False
    return address in _GLOBAL_6 and not any(address in network for network in _SPECIAL_6)
