"""Where the server listens: the section `server`."""

import ipaddress
from typing import Annotated

from pydantic import Field

from opta_lmx.config.sections.base import Seconds, Secret, Section


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback addresses; any other name may reach beyond them."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class ServerSettings(Section):
    """Where the server listens and what it bears from a connection."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; security.profile says which it may be.",
    )
    port: int = Field(default=1234, ge=0, le=65_535, description="TCP port; 0 takes any free one.")
    api_keys: list[Secret] = Field(
        default=[],
        description="Keys with every scope (`/admin` too), without names or limits of their own; "
        "access.keys has those with scopes.",
    )
    allowed_hosts: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="Names accepted in the Host header besides the loopback ones.",
    )
    body_limit_bytes: int = Field(
        default=10 * 1024 * 1024,
        ge=1024,
        le=128 * 1024**2,
        description="Largest request body.",
    )
    body_timeout_s: Seconds = Field(
        default=30.0, description="Longest time a body may take to arrive."
    )
    keepalive_s: float = Field(
        default=10.0,
        ge=1,
        le=15,
        description="Seconds of silence in a stream before a no-op chunk is sent.",
    )
    drain_timeout_s: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Time running answers get to finish at shutdown.",
    )
    prepare_before_headers_s: float = Field(
        default=8.0,
        ge=0,
        le=60,
        description="How long headers wait for the prompt's exact checks before they are sent.",
    )
