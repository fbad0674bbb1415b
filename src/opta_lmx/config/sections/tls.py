"""Encrypted connections, and callers known by their certificates: the section `tls`."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.access import ScopeName
from opta_lmx.config.sections.base import FilePath, Label, Name, Section

_SEPARATORS = "/.,-="


def _pattern(text: str) -> str:
    """Refuse a `*` that is not at the end of a whole part: `t1*` would also be `t10`."""
    head, star, rest = text.partition("*")
    if star and (rest or not head or head[-1] not in _SEPARATORS):
        raise PydanticCustomError(
            "bad_pattern",
            "A '*' may only stand at the end, behind one of {separators}",
            {"separators": " ".join(_SEPARATORS)},
        )
    return text


def _header(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9-]+", text) is None:
        raise PydanticCustomError("bad_header", "Must be the name of a header")
    return text.lower()


Pattern = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_pattern)]
HeaderName = Annotated[str, Field(max_length=64), AfterValidator(_header)]


class CertificateSettings(Section):
    """Whose a certificate is that has a certain name."""

    uri: Pattern | None = None
    dns: Pattern | None = None
    subject: Pattern | None = None
    tenant: Label = "default"
    name: Label | None = None
    scopes: list[ScopeName] = Field(default=["inference"], min_length=1)
    models: list[Name] | None = Field(default=None, min_length=1, max_length=64)
    lane: Literal["interactive", "agent", "background"] = "interactive"

    @property
    def pattern(self) -> tuple[Literal["uri", "dns", "subject"], str]:
        """Which of a certificate's names is looked at, and what it must be."""
        if self.uri is not None:
            return "uri", self.uri
        return ("dns", self.dns) if self.dns is not None else ("subject", self.subject or "")

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        given = [text for text in (self.uri, self.dns, self.subject) if text is not None]
        if len(given) != 1:
            raise PydanticCustomError("one_name", "Needs exactly one of uri, dns and subject")
        if self.name is None and (self.uri is None or not self.uri.endswith("*")):
            raise PydanticCustomError(
                "no_name", "Needs a name, unless uri ends with '*' and what that is names it"
            )
        return self


class TlsSettings(Section):
    """Whether connections are encrypted here, and what a client's certificate says of it."""

    certificate: FilePath | None = Field(
        default=None,
        description="PEM file with the server's certificate and those that vouch for it; with "
        "tls.key, connections are encrypted. Replaced files are taken over as they change.",
    )
    key: FilePath | None = Field(
        default=None, description="PEM file with the certificate's private key, not encrypted."
    )
    client_ca: FilePath | None = Field(
        default=None, description="PEM file with the authorities of clients' certificates."
    )
    client_certificates: Literal["off", "optional", "required"] = Field(
        default="off",
        description="Whether clients are asked for a certificate; required: none comes in "
        "without. A wrong one ends the connection either way.",
    )
    min_version: Literal["1.2", "1.3"] = Field(
        default="1.2", description="Oldest version of TLS; the newest that both know is used."
    )
    handshake_timeout_s: float = Field(
        default=10.0, ge=0.1, le=60, description="Longest time a TLS handshake may take."
    )
    mapping: list[CertificateSettings] = Field(
        default=[],
        max_length=1000,
        description="Whose a certificate is, the first entry that fits: uri, dns or subject (a * "
        "at the end stands for any rest), tenant, name (else what the * stands for), scopes "
        "(unless said: inference), models, lane.",
    )
    gateway: list[Pattern] = Field(
        default=[],
        max_length=100,
        description="URIs or DNS names in certificates of proxies that are believed when they "
        "say in a header which certificate their client has shown.",
    )
    gateway_san_header: HeaderName = Field(
        default="x-opta-client-san",
        description="Where such a proxy tells a URI or DNS name of its client's certificate.",
    )
    gateway_subject_header: HeaderName = Field(
        default="x-opta-client-subject",
        description="Where such a proxy tells the subject of its client's certificate.",
    )

    @property
    def enabled(self) -> bool:
        """Whether connections are encrypted here."""
        return self.certificate is not None

    def file(self, path: Path, home: Path) -> Path:
        """Where a file of these settings is; a relative one is taken from the state folder."""
        return home / path.expanduser()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Refuse halves: nothing here may be set and do nothing."""
        if (self.certificate is None) != (self.key is None):
            raise PydanticCustomError("half", "tls.certificate and tls.key go together")
        asks = self.client_certificates != "off"
        if asks and (self.certificate is None or self.client_ca is None):
            raise PydanticCustomError(
                "half", "tls.client_certificates needs tls.certificate, tls.key and tls.client_ca"
            )
        if not asks and (self.client_ca or self.mapping or self.gateway):
            raise PydanticCustomError(
                "half",
                "tls.client_ca, tls.mapping and tls.gateway need tls.client_certificates to be "
                "optional or required",
            )
        return self
