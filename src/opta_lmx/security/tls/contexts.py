"""The context for new connections, made anew when a file changes; a broken file changes nothing."""

import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.security.tls.session import ServerContext, Session, Trust

_Marks = tuple[tuple[int, int, int] | None, ...]


class TlsFiles(msgspec.Struct, frozen=True):
    """What a context is made of.

    Attributes:
        certificate: the server's, in PEM, with those that vouch for it.
        key: its private key.
        client_ca: who vouches for clients; None: they are not asked for a certificate.
        required: a client without one is refused.
        newest_only: no TLS before 1.3.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    required: bool = False
    newest_only: bool = False


class Tls:
    """The context in force. Connections keep the one they began with.

    Args:
        files: what it is made of. Raises INVALID_REQUEST `invalid_config` where that is broken.
        telemetry: told of every change.
    """

    def __init__(self, files: TlsFiles, telemetry: Telemetry) -> None:
        self._files = files
        self._telemetry = telemetry
        self._marks = self._look_at_files()
        self._read = _Read.of(files)
        self._context = build(files, self._read, Trust())
        self._broken = ""
        self._distrusted: list[Callable[[], None]] = []

    @property
    def context(self) -> ServerContext:
        """For a connection that begins now."""
        return self._context

    def on_distrust(self, act: Callable[[], None]) -> None:
        """Call `act` whenever other authorities have come to vouch for clients."""
        self._distrusted.append(act)

    def ends(self) -> dict[str, float]:
        """When certificates end, in UTC seconds: `server`, and `client_ca` (the first of them)."""
        return self._read.ends

    def look(self) -> None:
        """Take over files that have changed. What is broken is logged, and looked at again."""
        marks = self._look_at_files()
        if marks == self._marks and not self._broken:
            return
        changed, self._marks = marks != self._marks, marks
        try:
            self._take()
        except LmxError as error:
            if changed or error.message != self._broken:
                self._telemetry.count("tls_reloads_total", outcome="failed")
                self._telemetry.log(
                    "error", "changed TLS files are left aside", reason=error.message
                )
            self._broken = error.message
        else:
            self._broken = ""
            self._telemetry.count("tls_reloads_total", outcome="done")
            self._telemetry.log("info", "changed TLS files are in force", ends=self._read.ends)

    def _take(self) -> None:
        read = _Read.of(self._files)
        same = read.client_ca == self._read.client_ca
        before = self._context.trust
        self._context = build(self._files, read, before if same else Trust())
        self._read = read
        if not same:
            before.ended = True
            for act in self._distrusted:
                act()

    def _look_at_files(self) -> _Marks:
        files = (self._files.certificate, self._files.key, self._files.client_ca)
        return tuple(None if path is None else _mark(path) for path in files)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What differs once a file was written or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class _Read(msgspec.Struct, frozen=True):
    """Certificates as read: their text, and when they end."""

    server: str
    client_ca: str | None
    ends: dict[str, float]

    @classmethod
    def of(cls, files: TlsFiles) -> "_Read":
        server, server_end = _certificates(files.certificate, "tls.certificate")
        ends = {"server": server_end}
        authorities = None
        if files.client_ca is not None:
            authorities, ends["client_ca"] = _certificates(files.client_ca, "tls.client_ca")
        return cls(server, authorities, ends)


def _certificates(path: Path, setting: str) -> tuple[str, float]:
    """Certificates of a file in PEM, and when the first of them ends (UTC seconds).

    Of the server's file only the first one: the others vouch for it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        text = path.read_text(encoding="ascii")
        found = x509.load_pem_x509_certificates(text.encode())
    except OSError as error:
        raise _broken(path, setting, error.strerror or str(error)) from None
    except ValueError:
        raise _broken(path, setting, "it holds no certificate in PEM, or a damaged one") from None
    ends = [one.not_valid_after_utc.timestamp() for one in found]
    if setting == "tls.client_ca":
        return text, min(ends)
    return found[0].public_bytes(Encoding.PEM).decode(), ends[0]  # the file may hold the key, too


def build(files: TlsFiles, read: _Read, trust: Trust) -> ServerContext:
    """A context of these files. Raises INVALID_REQUEST `invalid_config`."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = Session
    newest = ssl.TLSVersion.TLSv1_3 if files.newest_only else ssl.TLSVersion.TLSv1_2
    context.minimum_version = newest
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ValueError) as error:  # among the first is SSLError
        raise _broken(files.key, "tls.key", _reason(error)) from None
    if read.client_ca is not None:
        _ask_clients(context, files, read.client_ca)
    context.server_pem = read.server
    context.trust = trust
    context.ciphers = {one["name"]: one["id"] & 0xFFFF for one in context.get_ciphers()}
    return context


def _ask_clients(context: ServerContext, files: TlsFiles, authorities: str) -> None:
    assert files.client_ca is not None
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise _broken(files.client_ca, "tls.client_ca", _reason(error)) from None
    context.verify_mode = ssl.CERT_REQUIRED if files.required else ssl.CERT_OPTIONAL
    # A session that is taken up again is not verified again: its certificate may have ended.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _no_password() -> str:
    """Called for an encrypted key only; without it the library would ask at the terminal."""
    raise ValueError("the key is encrypted; a server that starts by itself has no password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


def _broken(path: Path, setting: str, reason: str) -> LmxError:
    return invalid(
        f"{setting}: {path} cannot be used: {reason}.", param=setting, code="invalid_config"
    )
