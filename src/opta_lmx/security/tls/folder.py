"""The folder of certificates made here, `tls/` in the state folder: one's own eyes only."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.ids import random_id
from opta_lmx.security.tls.making import Pair, Wish, issue, make_authority, parse_pair, utc, wish_of

FOLDER = "tls"
AUTHORITY = "ca"
SERVER = "server"
CLIENTS = "clients"
_READ_BYTES = 256 * 1024


class Made(msgspec.Struct, frozen=True):
    """Where a certificate and its key lie, and what it says."""

    certificate: Path
    key: Path
    wish: Wish
    ends_ms: int


class TlsFolder:
    """Makes and keeps certificates below a folder.

    Args:
        folder: made as needed, for its owner alone.
        clock: tells from when certificates count.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    @property
    def authority_file(self) -> Path:
        """The authority's certificate, which clients and servers are to trust."""
        return self._folder / f"{AUTHORITY}.pem"

    def begin(self, hosts: Sequence[str], days: float, *, force: bool) -> Made:
        """Make an authority, and a certificate for the server.

        Raises:
            LmxError: CONFLICT `ca_exists` unless `force`; INVALID_REQUEST as `making.issue`.
        """
        if not force and (self.authority_file.exists() or self._key(AUTHORITY).exists()):
            raise LmxError(
                ErrorKind.CONFLICT,
                f"There is an authority at {self.authority_file} already. With --force it is "
                "replaced, and no certificate that it vouches for counts any more.",
                code="ca_exists",
            )
        now = self._now()
        authority = make_authority(f"Opta LMX {random_id(length=8)}", now)
        server = issue(authority, Wish(hosts[0], hosts=tuple(hosts), days=days), now)
        self._write(AUTHORITY, authority, replace=force)
        return self._kept(SERVER, server, replace=True)

    def issue(self, wish: Wish) -> Made:
        """Make a client's certificate. Raises CONFLICT `certificate_exists` for a name in use."""
        name = f"{CLIENTS}/{wish.name}"
        if self._certificate(name).exists():
            raise LmxError(
                ErrorKind.CONFLICT,
                f"There is a certificate named '{wish.name}' already: "
                f"`opta-lmx tls renew {wish.name}` makes it anew.",
                code="certificate_exists",
            )
        return self._kept(name, issue(self._authority(), wish, self._now()), replace=False)

    def renew(self, name: str | None, days: float | None) -> Made:
        """Make a certificate anew that says the same: of a client, or of the server (None).

        `days` None: for as long as the old one.
        """
        place = SERVER if name is None else f"{CLIENTS}/{name}"
        wish = wish_of(self._pair(place).certificate)
        if days is not None:
            wish = msgspec.structs.replace(wish, days=days)
        return self._kept(place, issue(self._authority(), wish, self._now()), replace=True)

    def all(self) -> list[Made]:
        """Every certificate but the authority's: the server's, then those of clients by name."""
        clients = sorted((self._folder / CLIENTS).glob("*.pem"))
        places = [SERVER] if self._certificate(SERVER).exists() else []
        places += [f"{CLIENTS}/{path.stem}" for path in clients]
        return [self._made(place, self._pair(place)) for place in places]

    def _now(self) -> datetime:
        return utc(self._clock.now_ms())

    def _authority(self) -> Pair:
        if not self.authority_file.exists():
            raise invalid(
                "There is no authority here yet: make one with `opta-lmx tls init`.",
                code="no_authority",
            )
        return self._pair(AUTHORITY)

    def _certificate(self, place: str) -> Path:
        return self._folder / f"{place}.pem"

    def _key(self, place: str) -> Path:
        return self._folder / f"{place}.key"

    def _pair(self, place: str) -> Pair:
        path = self._certificate(place)
        try:
            return parse_pair(_read(path), _read(self._key(place)))
        except FileNotFoundError as error:
            raise LmxError(
                ErrorKind.NOT_FOUND, f"There is no {error.filename}.", code="certificate_not_found"
            ) from None
        except (ValueError, TypeError) as error:
            raise invalid(f"{path} and its key cannot be used: {error}.") from None

    def _made(self, place: str, pair: Pair) -> Made:
        ends_ms = int(pair.certificate.not_valid_after_utc.timestamp() * 1000)
        where = self._certificate(place), self._key(place)
        return Made(*where, wish_of(pair.certificate), ends_ms)

    def _kept(self, place: str, pair: Pair, *, replace: bool) -> Made:
        self._write(place, pair, replace=replace)
        return self._made(place, pair)

    def _write(self, place: str, pair: Pair, *, replace: bool) -> None:
        for folder in (self._folder, self._certificate(place).parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        # The key first: a server that looks in between finds two that do not fit, and waits.
        _write(self._key(place), pair.key_pem(), replace=replace)
        _write(self._certificate(place), pair.certificate_pem(), replace=replace)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_READ_BYTES)


def _write(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file that only its owner reads; whoever reads it meanwhile has the old or the new."""
    if not replace:
        _create(path, data)
        return
    beside = path.with_name(f".{path.name}.{random_id(length=8)}")
    _create(beside, data)
    beside.replace(path)


def _create(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
