"""Tokens of an identity provider in the place of keys: the section `oidc`."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.access import ScopeName
from opta_lmx.config.sections.base import LONGEST_KEPT_S, FilePath, Label, Name, Section

AlgorithmName = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
_Claim = Annotated[str, Field(min_length=1, max_length=128)]


def _sound(url: str) -> str:
    """Refuse addresses whose answers somebody on the way could write."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise _unsound() from None
    near = parts.scheme == "http" and _is_loopback(host)
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if not (host and plain and (parts.scheme == "https" or near)) or not url.isascii():
        raise _unsound()
    return url


def _unsound() -> PydanticCustomError:
    return PydanticCustomError(
        "unsound_url", "Must be an https:// address (or http:// on this machine), and no more"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Url = Annotated[str, Field(max_length=2048), AfterValidator(_sound)]


class ClaimSettings(Section):
    """What the owner of a token may do whose claim has a value."""

    claim: _Claim
    value: Name
    tenant: Label = "default"
    scopes: list[ScopeName] = Field(default=["inference"], min_length=1)
    models: list[Name] | None = Field(default=None, min_length=1, max_length=64)
    lane: Literal["interactive", "agent", "background"] = "interactive"


class OidcSettings(Section):
    """Whose tokens are believed, and what they open."""

    issuer: Url | None = Field(
        default=None,
        description="Whose tokens (JWT) are taken in the place of keys: the `iss` of each, and "
        "where the provider is described. Unset: nobody's.",
    )
    audience: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="What tokens must name in `aud`: this server, as the provider knows it.",
    )
    jwks_url: Url | None = Field(
        default=None,
        description="Where the provider's keys are; else as its description says.",
    )
    ca: FilePath | None = Field(
        default=None,
        description="PEM file with the authorities that vouch for the provider's certificate; "
        "unset: those of the system.",
    )
    algorithms: list[AlgorithmName] = Field(
        default=["RS256", "ES256", "EdDSA"],
        min_length=1,
        description="Signatures that are taken.",
    )
    max_lifetime_s: float = Field(
        default=86_400.0,
        ge=60,
        le=LONGEST_KEPT_S,
        description="Longest time that a token may be good for: none can be taken back.",
    )
    rules: list[ClaimSettings] = Field(
        default=[],
        max_length=256,
        description="What a token opens, by its claims: claim, value (with *), tenant, scopes "
        "(unless said: inference), models, lane; the first that fits counts. Without any rule "
        "every token is for inference; with some, one that fits none opens nothing.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.issuer is not None and self.audience is None:
            raise PydanticCustomError("no_audience", "oidc.issuer needs oidc.audience beside it")
        if self.issuer is None and (self.audience or self.jwks_url or self.ca or self.rules):
            raise PydanticCustomError("no_issuer", "Without oidc.issuer no token is taken")
        return self

    def authorities(self, home: Path) -> Path | None:
        """Where the file `ca` is; a relative one is taken from the state folder."""
        return None if self.ca is None else home / self.ca.expanduser()
