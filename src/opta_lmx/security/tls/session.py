"""One encrypted connection as requests see it: the ASGI extension `tls`, and who is at its end."""

import asyncio
import ssl
from functools import cached_property
from typing import Any, cast

import msgspec
from starlette.types import Scope

EXTENSION = "tls"
"""Where a scope's `extensions` hold what ASGI says of an encrypted connection."""
PEER = "opta_lmx.peer"
"""Where they hold the `Peer`, if the client has shown a certificate."""

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class Trust:
    """Whether the authorities that vouched for a certificate still count."""

    def __init__(self) -> None:
        self.ended = False


class Names(msgspec.Struct, frozen=True):
    """What a certificate calls its owner; `subject` as in RFC 4514, empty where there is none."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    subject: str = ""


class Peer(msgspec.Struct, frozen=True):
    """Who has proven to own a certificate; it ends at `ends_ms` (UTC), and with `trust`."""

    names: Names
    ends_ms: int
    trust: Trust


class ServerContext(ssl.SSLContext):
    """A context that knows what it was made of: the server's certificate, whose word counts."""

    server_pem: str
    trust: Trust
    ciphers: dict[str, int]


class Session(ssl.SSLObject):
    """The connection's state; what a certificate says is read once, on the first request."""

    @cached_property
    def extensions(self) -> dict[str, Any]:
        """The entries for `extensions` of scopes."""
        context = self.context
        assert isinstance(context, ServerContext)
        chain = self._chain()
        peer = _peer(chain[0], context.trust) if chain else None
        cipher = self.cipher()
        described = {
            "server_cert": context.server_pem,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(one) for one in chain],
            "client_cert_name": None if peer is None else peer.names.subject,
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(self.version() or ""),
            "cipher_suite": None if cipher is None else context.ciphers.get(cipher[0]),
        }
        return {EXTENSION: described} if peer is None else {EXTENSION: described, PEER: peer}

    def _chain(self) -> list[bytes]:
        """The client's certificate and, where Python tells them, those that vouch for it; DER."""
        if not self.getpeercert():  # empty where none was shown, or none was verified
            return []
        leaf = self.getpeercert(binary_form=True)
        assert leaf is not None
        verified: Any = getattr(self, "get_verified_chain", None)  # from Python 3.13 on
        return [leaf] if verified is None else cast("list[bytes]", verified())


def extensions_of(transport: asyncio.BaseTransport) -> dict[str, Any]:
    """The entries for `extensions` of a scope; none for a connection that is not encrypted."""
    found = transport.get_extra_info("ssl_object")
    return found.extensions if isinstance(found, Session) else {}


def peer_of(scope: Scope) -> Peer | None:
    """Who has shown a certificate on the connection of a request."""
    return scope.get("extensions", {}).get(PEER)


def _peer(der: bytes, trust: Trust) -> Peer:
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    ends_ms = int(certificate.not_valid_after_utc.timestamp() * 1000)
    return Peer(_names(certificate), ends_ms, trust)


def _names(certificate: Any) -> Names:
    from cryptography import x509

    subject = ""
    try:
        subject = certificate.subject.rfc4514_string()
        extensions = certificate.extensions
        told = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names(subject=subject)
    except (ValueError, x509.DuplicateExtension):
        return Names()  # what cannot be read says nothing
    return Names(
        tuple(told.get_values_for_type(x509.UniformResourceIdentifier)),
        tuple(told.get_values_for_type(x509.DNSName)),
        subject,
    )
