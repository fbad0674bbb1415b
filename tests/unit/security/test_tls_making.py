"""Certificates made here are what TLS takes them for: by `ssl`, by OpenSSL, and in files."""

import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.security.tls.folder import TlsFolder
from opta_lmx.security.tls.making import (
    Pair,
    Wish,
    gateway_uri,
    issue,
    make_authority,
    parse_pair,
    tenant_uri,
    wish_of,
)
from tests.support.clocks import HandClock

NOW = datetime.now(UTC).replace(microsecond=0)
CLIENT = Wish("bot-1", "t1", tenant_uri("t1", "bot-1"), days=30)
SERVER = Wish("localhost", hosts=("localhost", "127.0.0.1", "::1", "*.box.example"), days=90)
GATEWAY = Wish("edge", uri=gateway_uri("edge"), hosts=("gw.example",))


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority("tests", NOW)


@pytest.mark.parametrize("wish", [CLIENT, SERVER, GATEWAY], ids=lambda wish: wish.name)
def test_what_is_wished_is_what_is_said(authority: Pair, wish: Wish) -> None:
    made = issue(authority, wish, NOW)
    said = wish_of(made.certificate)
    assert (said.name, said.tenant, said.uri) == (wish.name, wish.tenant, wish.uri)
    assert set(said.hosts) == set(wish.hosts)
    assert said.days == pytest.approx(wish.days)
    purposes = made.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(purposes)) == bool(wish.uri) + bool(wish.hosts)
    assert parse_pair(made.certificate_pem(), made.key_pem()).certificate == made.certificate


def test_the_authority_vouches_for_no_other(authority: Pair) -> None:
    found = authority.certificate.extensions
    basic = found.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = found.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature


def test_nothing_ends_later_than_the_authority(authority: Pair) -> None:
    late = NOW + timedelta(days=3640)
    made = issue(authority, CLIENT, late)
    assert made.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(LmxError, match="has ended"):
        issue(authority, CLIENT, NOW + timedelta(days=3651))


@pytest.mark.parametrize("days", [0, -1, 826, float("nan"), float("inf")])
def test_days_have_bounds(authority: Pair, days: float) -> None:
    with pytest.raises(LmxError) as refused:
        issue(authority, Wish("a", uri="spiffe://x/a", days=days), NOW)
    assert refused.value.param == "days"


@pytest.mark.parametrize("host", ["", "a b", "é.example", "a..b", "x" * 64, "*", "a/b", "a\n"])
def test_what_is_no_host_is_refused(authority: Pair, host: str) -> None:
    with pytest.raises(LmxError) as refused:
        issue(authority, Wish("a", hosts=(host,)), NOW)
    assert refused.value.param == "host"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
@pytest.mark.parametrize(
    ("wish", "purpose", "good"),
    [
        (CLIENT, "sslclient", True),
        (CLIENT, "sslserver", False),
        (SERVER, "sslserver", True),
        (SERVER, "sslclient", False),
        (GATEWAY, "sslclient", True),
        (GATEWAY, "sslserver", True),
    ],
)
def test_openssl_agrees(
    authority: Pair, tmp_path: Path, wish: Wish, purpose: str, good: bool
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem())
    (tmp_path / "leaf.pem").write_bytes(issue(authority, wish, NOW).certificate_pem())
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem"]
    done = subprocess.run(
        [*command, "leaf.pem"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is good, done.stderr


class Folder:
    """A folder of certificates and its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = HandClock(NOW.timestamp())
        self.folder = TlsFolder(path, self.clock)


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "home" / "tls")


def begun(place: Folder) -> None:
    place.folder.begin(["localhost"], 90, force=False)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Talk within this process; what the server knows its client by."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
            if end.server_side:
                certificate = end.getpeercert()
                assert certificate is not None
                return str(certificate["subjectAltName"])
    raise AssertionError


def test_what_the_folder_holds_shakes_hands(place: Folder) -> None:
    begun(place)
    made = place.folder.issue(CLIENT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(place.path / "server.pem", place.path / "server.key")
    server.load_verify_locations(place.folder.authority_file)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(place.folder.authority_file)
    client.load_cert_chain(made.certificate, made.key)
    assert shake_hands(server, client) == f"(('URI', '{CLIENT.uri}'),)"


def test_only_the_owner_reads_it(place: Folder) -> None:
    begun(place)
    place.folder.issue(CLIENT)
    place.folder.renew("bot-1", None)
    found = list(place.path.rglob("*"))
    assert {path.name for path in found} == {
        *("ca.pem", "ca.key", "server.pem", "server.key"),
        *("clients", "bot-1.pem", "bot-1.key"),
    }
    for path in [place.path, *found]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_an_authority_is_not_replaced_by_accident(place: Folder) -> None:
    begun(place)
    before = {path: path.read_bytes() for path in place.path.rglob("*.*")}
    with pytest.raises(LmxError) as refused:
        begun(place)
    assert (refused.value.kind, refused.value.code) == (ErrorKind.CONFLICT, "ca_exists")
    assert {path: path.read_bytes() for path in place.path.rglob("*.*")} == before
    place.folder.begin(["localhost"], 90, force=True)
    assert all(path.read_bytes() != data for path, data in before.items())


def test_a_link_in_the_way_is_not_followed(place: Folder, tmp_path: Path) -> None:
    place.path.mkdir(parents=True)
    target = tmp_path / "target"
    (place.path / "ca.key").symlink_to(target)
    with pytest.raises(OSError, match=r"."):
        begun(place)
    assert not target.exists()


def test_a_name_is_given_once_and_made_anew_by_renewing(place: Folder) -> None:
    begun(place)
    first = place.folder.issue(CLIENT)
    old = first.certificate.read_bytes(), first.key.read_bytes()
    with pytest.raises(LmxError) as refused:
        place.folder.issue(CLIENT)
    assert refused.value.code == "certificate_exists"
    place.clock.now += 20 * 86_400
    renewed = place.folder.renew("bot-1", None)
    assert renewed.wish.uri == CLIENT.uri
    assert renewed.ends_ms - first.ends_ms == 20 * 86_400_000
    assert old != (renewed.certificate.read_bytes(), renewed.key.read_bytes())
    again = place.folder.renew("bot-1", 5)
    assert again.ends_ms == place.clock.now_ms() + 5 * 86_400_000
    server = place.folder.renew(None, None)
    assert server.wish.hosts == ("localhost",)
    assert [made.certificate.stem for made in place.folder.all()] == ["server", "bot-1"]


def test_without_an_authority_nothing_is_issued(place: Folder) -> None:
    with pytest.raises(LmxError) as refused:
        place.folder.issue(CLIENT)
    assert refused.value.code == "no_authority"
    begun(place)
    with pytest.raises(LmxError) as unknown:
        place.folder.renew("nobody", None)
    assert unknown.value.code == "certificate_not_found"
    (place.path / "ca.key").write_text("rubbish")
    with pytest.raises(LmxError, match="cannot be used"):
        place.folder.issue(CLIENT)
