"""Who may reach the server, and through what: the section `security`."""

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.base import Section

ProfileName = Literal["loopback", "lan", "trusted-gateway", "internet"]

_WIDEST = {4: 8, 6: 7}
"""Bits that a trusted network must fix, by version: as many as the largest private ones do."""


def _network(text: str) -> str:
    """Refuse what is no address or network, and networks so wide that strangers are in them."""
    network = _parsed(text)
    if network is None:
        raise PydanticCustomError(
            "not_a_network", "Must be an address or a network like 10.0.0.0/8 or fd00::/8"
        )
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        raise PydanticCustomError(
            "mapped_network", "Write an IPv4 address or network as such, not within IPv6"
        )
    if network.prefixlen < _WIDEST[network.version]:
        raise PydanticCustomError(
            "wide_network",
            "Trusts too many: at least /{bits} is needed",
            {"bits": _WIDEST[network.version]},
        )
    return text


def _parsed(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        # What stands behind a % names an interface of one machine, not who may be there.
        return None if "%" in text else ipaddress.ip_network(text)
    except ValueError:
        return None


class SecuritySettings(Section):
    """What must hold before the server starts, and whose word on who asks is believed."""

    profile: ProfileName = Field(
        default="loopback",
        description="Where callers come from: loopback, lan, trusted-gateway or internet; the "
        "server starts once all holds that the profile asks for (`config explain --profile`).",
    )
    trusted_proxies: list[Annotated[str, AfterValidator(_network)]] = Field(
        default=[],
        description="Addresses and networks (CIDR) of proxies that are believed when they say "
        "for whom they ask (Forwarded, X-Forwarded-For, X-Forwarded-Proto).",
    )
    auth_failures_per_minute: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="Wrong keys one address may show in a minute; beyond that: 429.",
    )
