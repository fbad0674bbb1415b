"""Where the keys of an identity provider come from: fetched within bounds, from whom was named.

The operator named the provider, so that it may be in a private network or on this machine. What
the provider itself names as the place of its keys may not, unless it is its own host.
"""

import ipaddress
import ssl
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.security.addresses import Networks
from opta_lmx.security.fetch import FetchPolicy, fetch
from opta_lmx.security.fetch_urls import parse_url, port_of
from opta_lmx.tenancy.tokens_claims import BadTokenError, read_object
from opta_lmx.tenancy.tokens_keys import KeySet, ProviderError, parse_keys

FETCH_S = 5.0
"""How long one document may take to be fetched."""
MAX_BYTES = 256 * 1024
DESCRIPTION = "/.well-known/openid-configuration"
_TYPES = ("application/json", "application/jwk-set+json")
_NEAR = Networks(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)
"""Private networks and this machine. Link-local ones, where clouds have their metadata, are not."""


class Source(msgspec.Struct, frozen=True):
    """Who is asked: at `jwks_url`, or where the issuer's description says.

    `tls` believes the provider's certificate; None: as the system does.
    """

    issuer: str
    jwks_url: str | None = None
    tls: ssl.SSLContext | None = None


def believing(authorities: Path | None, setting: str) -> ssl.SSLContext | None:
    """What believes certificates of these authorities (PEM); None for those of the system.

    Raises:
        LmxError: INVALID_REQUEST `invalid_config`, naming the setting, for no such file.
    """
    if authorities is None:
        return None
    try:
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ValueError):
        raise invalid(
            f"The authorities of {setting} cannot be read from {authorities}.",
            param=setting,
            code="invalid_config",
        ) from None


async def fetch_keys(source: Source) -> KeySet:
    """The provider's present keys. Raises ProviderError."""
    try:
        if source.jwks_url is not None:
            return parse_keys(await _document(source.jwks_url, source, named=True))
        url = await _described(source)
        own = parse_url(url).raw_host == parse_url(source.issuer).raw_host
        return parse_keys(await _document(url, source, named=own))
    except LmxError as error:
        raise ProviderError(error.message) from None
    except BadTokenError as error:
        raise ProviderError(f"its answer is no JSON object: {error}") from None


async def _described(source: Source) -> str:
    """Where the issuer's description says that its keys are."""
    found = await _document(source.issuer.rstrip("/") + DESCRIPTION, source, named=True)
    url = found.get("jwks_uri")
    if found.get("issuer") != source.issuer:
        raise ProviderError("its description is of another issuer")
    if not isinstance(url, str) or not _is_as_safe(url, source.issuer):
        raise ProviderError("its description names no https:// address of keys")
    return url


def _is_as_safe(url: str, issuer: str) -> bool:
    """Whether nobody on the way can write what is answered, or only who could before."""
    target, first = parse_url(url), parse_url(issuer)
    same = (target.scheme, target.raw_host) == (first.scheme, first.raw_host)
    return target.scheme == "https" or same


async def _document(url: str, source: Source, *, named: bool) -> dict[str, Any]:
    """A JSON object; `named`: its host was named by the operator."""
    policy = FetchPolicy(_TYPES, MAX_BYTES, FETCH_S, max_redirects=0)
    if named:
        ports = frozenset({port_of(parse_url(url))})
        policy = msgspec.structs.replace(policy, ports=ports, networks=_NEAR)
    return read_object((await fetch(url, policy, tls=source.tls)).data)
