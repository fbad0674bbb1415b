"""Certificates made here: an authority of one's own, and what it vouches for. Pure but for keys."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from opta_lmx.core.errors import LmxError, invalid

AUTHORITY_DAYS = 3650
SERVER_DAYS = 90
CLIENT_DAYS = 30
MAX_DAYS = 825

_EARLY = timedelta(minutes=5)  # clocks differ a little
_USAGES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its private key (EC P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """The key in PEM, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


class Wish(msgspec.Struct, frozen=True):
    """What a certificate is to say.

    `name` and `tenant` are its subject; `uri` and `hosts` (names and addresses) what it is known
    by; it is for clients where it has a `uri`, for servers where it has `hosts`.
    """

    name: str
    tenant: str | None = None
    uri: str | None = None
    hosts: tuple[str, ...] = ()
    days: float = CLIENT_DAYS


def tenant_uri(tenant: str, name: str) -> str:
    """What a client of a tenant is known by."""
    return f"spiffe://opta/tenant/{tenant}/{name}"


def gateway_uri(name: str) -> str:
    """What a proxy is known by whose word on clients' certificates counts."""
    return f"spiffe://opta/gateway/{name}"


def make_authority(name: str, now: datetime) -> Pair:
    """An authority that vouches for servers and clients, and for no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _begun(subject, subject, key, now, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def issue(authority: Pair, wish: Wish, now: datetime) -> Pair:
    """A certificate that the authority vouches for; it ends no later than the authority.

    Raises:
        LmxError: INVALID_REQUEST for a host that is no name or address, or for too many days.
    """
    if not 0 < wish.days <= MAX_DAYS:
        raise invalid(f"'days' must be more than 0 and at most {MAX_DAYS}.", param="days")
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, wish.name)]
    if wish.tenant is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, wish.tenant))
    issuer = authority.certificate
    days = min(wish.days, (issuer.not_valid_after_utc - now) / timedelta(days=1))
    if days <= 0:
        raise _authority_ended()
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begun(x509.Name(attributes), issuer.subject, key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    purposes = [_USAGES["client"]] if wish.uri else []
    purposes += [_USAGES["server"]] if wish.hosts else []
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(_names(wish), critical=False)
    of_issuer = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    vouched = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(of_issuer)
    builder = builder.add_extension(vouched, critical=False)
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def wish_of(certificate: x509.Certificate) -> Wish:
    """What a certificate made here says, so that another may say the same. Raises LmxError."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        raise invalid("The certificate was not made here: it has no names.") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    whole = certificate.not_valid_after_utc - certificate.not_valid_before_utc - _EARLY
    return Wish(
        name=_attribute(certificate, NameOID.COMMON_NAME) or "unnamed",
        tenant=_attribute(certificate, NameOID.ORGANIZATION_NAME),
        uri=uris[0] if uris else None,
        hosts=(*names.get_values_for_type(x509.DNSName), *addresses),
        days=whole / timedelta(days=1),
    )


def parse_pair(certificate_pem: bytes, key_pem: bytes) -> Pair:
    """A certificate and its key. Raises ValueError for what is neither, or not of each other."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("no key on an elliptic curve")
    if key.public_key() != certificate.public_key():
        raise ValueError("the key is not the certificate's")
    return Pair(certificate, key)


def utc(now_ms: int) -> datetime:
    """A moment given in UTC milliseconds."""
    return datetime.fromtimestamp(now_ms / 1000, UTC)


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str | None:
    found = certificate.subject.get_attributes_for_oid(oid)
    return str(found[0].value) if found else None


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: float,
) -> x509.CertificateBuilder:
    public = key.public_key()
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(public).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _EARLY).not_valid_after(now + timedelta(days=days))
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    return builder.add_extension(identifier, critical=False)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _names(wish: Wish) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [_host(host) for host in wish.hosts]
    if wish.uri is not None:
        names.append(x509.UniformResourceIdentifier(wish.uri))
    return x509.SubjectAlternativeName(names)


def _host(host: str) -> x509.GeneralName:
    bare = host.strip("[]")
    try:
        return x509.IPAddress(ipaddress.ip_address(bare))
    except ValueError:
        pass
    labels = bare.removeprefix("*.").split(".")
    if not all(_is_label(one) for one in labels) or len(bare) > 253:
        raise invalid(f"{host!r} is no host name or address.", param="host")
    return x509.DNSName(bare)


def _is_label(text: str) -> bool:
    plain = text.isascii() and text.replace("-", "").replace("_", "").isalnum()
    return plain and len(text) <= 63


def _authority_ended() -> LmxError:
    return invalid(
        "The authority's own certificate has ended: make a new one with "
        "`opta-lmx tls init --force`.",
        code="authority_ended",
    )


def hosts_of_machine(name: str) -> Sequence[str]:
    """By what a server is reached from its own machine, and by its name."""
    return list(dict.fromkeys(["localhost", "127.0.0.1", "::1", name]))
