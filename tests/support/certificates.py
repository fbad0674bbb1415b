"""Authorities and certificates for tests, made by the program's own means, in files."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opta_lmx.security.tls.making import Pair, Wish, issue, make_authority, tenant_uri

Shown = tuple[Path, Path]
"""Files of a certificate and its key."""


class Authority:
    """An authority whose files lie in a folder of its own."""

    def __init__(self, folder: Path, name: str = "tests") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pair = make_authority(name, datetime.now(UTC) - timedelta(days=30))
        self.file = folder / "ca.pem"
        self.file.write_bytes(self.pair.certificate_pem())

    def make(
        self,
        name: str,
        *,
        uri: str | None = None,
        hosts: tuple[str, ...] = (),
        days_ago: float = 0,
        days: float = 1,
        tenant: str | None = None,
    ) -> Shown:
        """A certificate made some days ago, for so many days."""
        wish = Wish(name=name, tenant=tenant, uri=uri, hosts=hosts, days=days)
        made = issue(self.pair, wish, datetime.now(UTC) - timedelta(days=days_ago))
        return self.keep(name, made)

    def keep(self, name: str, made: Pair) -> Shown:
        """Write a pair to files."""
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(made.certificate_pem())
        files[1].write_bytes(made.key_pem())
        return files

    def bot(self, tenant: str, name: str, **more: Any) -> Shown:
        """A bot's certificate."""
        return self.make(f"{tenant}-{name}", uri=tenant_uri(tenant, name), **more)

    def server(self, name: str = "server", **more: Any) -> Shown:
        """The server's certificate."""
        return self.make(name, hosts=("localhost", "127.0.0.1"), **more)


def trusting(
    authority: Path, shown: Shown | None = None, *, newest: bool | None = None
) -> ssl.SSLContext:
    """A client that trusts an authority, and shows a certificate; `newest`: TLS 1.3 only, or no."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    if shown is not None:
        context.load_cert_chain(*shown)
    if newest is not None:
        version = ssl.TLSVersion.TLSv1_3 if newest else ssl.TLSVersion.TLSv1_2
        context.minimum_version = context.maximum_version = version
    return context


def section(server: Shown, **more: Any) -> dict[str, Any]:
    """The section `tls` of a configuration."""
    return {"certificate": str(server[0]), "key": str(server[1]), **more}
