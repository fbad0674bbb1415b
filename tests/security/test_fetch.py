"""Fetching for a client, from real servers on loopback that the policy allows."""

import asyncio
import datetime as dt
import gzip
import ipaddress
import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from opta_lmx.core.errors import LmxError
from opta_lmx.security.addresses import Address, Networks
from opta_lmx.security.fetch import MAX_LOOKUPS, Fetched, FetchPolicy, fetch, resolve

NAME = "files.example"
LIMIT = 1000
PICTURE = b"\x89PNG" + bytes(100)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        path, _, target = self.path.partition("?to=")
        match path:
            case "/picture":
                self._send(PICTURE, "Image/PNG; charset=x")
            case "/exact":
                self._send(b"x" * LIMIT)
            case "/large":
                self._send(b"x" * (LIMIT + 1))
            case "/endless":
                self._endless()
            case "/page":
                self._send(b"<html>", "text/html")
            case "/untyped":
                self._send(b"x", "")
            case "/packed":
                self._send(gzip.compress(bytes(10_000_000))[:900], encoding="gzip")
            case "/missing":
                self._send(b"", status=404)
            case "/silent":
                self.server.go_on.wait(20)  # type: ignore[attr-defined]
            case "/dribble":
                self._dribble()
            case "/broken":
                self.wfile.write(b"nonsense\r\n\r\n")
                self.close_connection = True
            case _:
                self.send_response(302)
                self.send_header("Location", target.replace("%5C", "\\"))
                self.send_header("Set-Cookie", "secret=1; Path=/")
                self.send_header("Content-Length", "0")
                self.end_headers()

    def _send(
        self, data: bytes, kind: str = "image/png", *, status: int = 200, encoding: str = ""
    ) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(100_000):
                self.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        except ConnectionError:
            self.close_connection = True

    def _dribble(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", "900")
        self.end_headers()
        try:
            while not self.server.go_on.wait(0.02):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
                self.wfile.flush()
        except ConnectionError:
            pass
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Silent: tests look at `seen`."""


class Site:
    """A running server and what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        handler = type("Handler", (_Handler,), {"seen": self.seen})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.go_on = threading.Event()  # type: ignore[attr-defined]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, path: str, scheme: str = "http", host: str = NAME) -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def close(self) -> None:
        self._server.go_on.set()  # type: ignore[attr-defined]
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.close()


def policy(*sites: Site, **changes: Any) -> FetchPolicy:
    asked: dict[str, Any] = {
        "content_types": ("image/*",),
        "max_bytes": LIMIT,
        "total_s": 10.0,
        "ports": frozenset(site.port for site in sites),
        "networks": Networks.parse(["127.0.0.1"]),
    }
    return FetchPolicy(**{**asked, **changes})


async def here(host: str, port: int) -> Sequence[Address]:
    """Every name is this machine, but one that is elsewhere in it."""
    return [ipaddress.ip_address("127.0.0.2" if host == "private.example" else "127.0.0.1")]


def got(url: str, how: FetchPolicy, **more: Any) -> Fetched:
    return asyncio.run(fetch(url, how, **{"resolve": here, **more}))


def refused(url: str, how: FetchPolicy, **more: Any) -> LmxError:
    with pytest.raises(LmxError) as caught:
        got(url, how, **more)
    return caught.value


def test_a_picture_is_fetched_under_its_name(site: Site) -> None:
    found = got(site.url("/picture#part"), policy(site))
    assert found == Fetched(PICTURE, "image/png", site.url("/picture"))
    (asked,) = site.seen
    assert asked["host"] == f"{NAME}:{site.port}"
    assert asked["accept-encoding"] == "identity"
    assert asked.keys() == {"path", "host", "accept", "accept-encoding", "connection", "user-agent"}


@pytest.mark.parametrize("host", [NAME, "127.0.0.1"])
def test_without_the_network_nothing_is_asked(site: Site, host: str) -> None:
    closed = policy(site, networks=Networks())
    assert refused(site.url("/picture", host=host), closed).code == "url_refused"
    assert refused(site.url("/picture", host=host), policy()).code == "url_refused"
    assert site.seen == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/large", "fetched_too_large"),
        ("/endless", "fetched_too_large"),
        ("/page", "fetched_type_refused"),
        ("/untyped", "fetched_type_refused"),
        ("/packed", "fetch_failed"),
        ("/missing", "fetch_failed"),
        ("/broken", "fetch_failed"),
    ],
)
def test_what_is_not_taken(site: Site, path: str, code: str) -> None:
    assert refused(site.url(path), policy(site)).code == code


def test_the_size_is_exact(site: Site) -> None:
    assert len(got(site.url("/exact"), policy(site)).data) == LIMIT


@pytest.mark.parametrize("path", ["/silent", "/dribble"])
def test_the_time_is_bounded_as_a_whole(site: Site, path: str) -> None:
    assert refused(site.url(path), policy(site, total_s=0.3)).code == "fetch_timeout"


def test_a_name_that_is_never_found_costs_the_time_only(site: Site) -> None:
    async def never(host: str, port: int) -> Sequence[Address]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    late = refused(site.url("/picture"), policy(site, total_s=0.1), resolve=never)
    assert late.code == "fetch_timeout"


def test_few_names_are_looked_up_at_once() -> None:
    """Each holds a thread until it is over, also where nobody waits for it any more."""

    class Slow:
        def __init__(self) -> None:
            self.asked: list[asyncio.Future[Any]] = []

        def ask(self, *_: object, **__: object) -> "asyncio.Future[Any]":
            self.asked.append(asyncio.get_running_loop().create_future())
            return self.asked[-1]

    async def look(many: int) -> list[BaseException]:
        asked = [asyncio.ensure_future(resolve("slow.example", 80)) for _ in range(many)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for one in asked:
            one.cancel()
        told = await asyncio.gather(*asked, return_exceptions=True)
        return [one for one in told if isinstance(one, LmxError)]

    async def main() -> None:
        slow = Slow()
        asyncio.get_running_loop().getaddrinfo = slow.ask
        assert await look(MAX_LOOKUPS) == []
        (refused,) = await look(1)
        assert isinstance(refused, LmxError)
        assert refused.code == "fetch_failed"
        slow.asked[0].set_exception(OSError("late"))
        slow.asked[1].set_result([])
        await asyncio.sleep(0)
        assert len(await look(3)) == 1
        for one in slow.asked[2:]:
            one.cancel()
        await asyncio.sleep(0)
        assert await look(1) == []
        slow.asked[-1].cancel()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_another_address_is_tried(site: Site) -> None:
    async def two(host: str, port: int) -> Sequence[Address]:
        return [ipaddress.ip_address(one) for one in ("127.0.0.3", "127.0.0.1")]

    both = policy(site, networks=Networks.parse(["127.0.0.0/8"]))
    assert got(site.url("/picture"), both, resolve=two).data == PICTURE
    assert refused(site.url("/picture"), policy(site), resolve=two).code == "url_refused"


def test_redirects_are_followed_without_what_was_set(site: Site) -> None:
    found = got(site.url("/go?to=/picture"), policy(site))
    assert found.final_url == site.url("/picture")
    assert ["cookie" in asked for asked in site.seen] == [False, False]
    assert ["referer" in asked for asked in site.seen] == [False, False]


def test_redirects_have_a_bound(site: Site) -> None:
    assert refused(site.url("/go?to=/go"), policy(site)).code == "url_refused"
    assert len(site.seen) == 4
    assert refused(site.url("/go?to=/picture"), policy(site, max_redirects=0)).code == "url_refused"
    assert len(site.seen) == 5


@pytest.mark.parametrize(
    "target",
    [
        "http://private.example:PORT/picture",
        "http://127.0.0.2:PORT/picture",
        "http://127.1:PORT/picture",
        "http://[::1]:PORT/picture",
        "//private.example:PORT/picture",
        "file:///etc/passwd",
        "http://x:y@files.example:PORT/picture",
        "http://files.example:1/picture",
        "\\\\private.example:PORT/picture",
        "http://files.example\\@private.example:PORT/picture",
        "http://[",
        "http://169.254.169.254/",
    ],
)
def test_redirects_are_held_to_the_same_rules(site: Site, target: str) -> None:
    url = site.url("/go?to=" + target.replace("PORT", str(site.port)).replace("\\", "%5C"))
    assert refused(url, policy(site)).code == "url_refused"
    assert len(site.seen) == 1


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side and a client's that believes it; the certificate is for NAME alone."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = Path(folder / "both.pem")
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(path)
    believed = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    believed.load_verify_locations(path)
    return served, believed


def test_the_certificate_must_be_for_the_name(
    authority: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    served, believed = authority
    names: list[str | None] = []
    served.sni_callback = lambda _socket, name, _context: names.append(name)
    site = Site(served)
    try:
        how = policy(site)
        assert got(site.url("/picture", "https"), how, tls=believed).data == PICTURE
        assert names == [NAME]
        other = site.url("/picture", "https", "other.example")
        assert refused(other, how, tls=believed).code == "fetch_failed"
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        assert refused(site.url("/picture", "https"), how, tls=stranger).code == "fetch_failed"
    finally:
        site.close()


def test_a_redirect_from_https_to_http_is_refused(
    site: Site, authority: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    served, believed = authority
    secure = Site(served)
    try:
        down = secure.url("/go?to=" + site.url("/picture"), "https")
        both = policy(site, secure)
        assert refused(down, both, tls=believed).code == "url_refused"
        assert site.seen == []
        up = site.url("/go?to=" + secure.url("/picture", "https"))
        assert got(up, both, tls=believed).data == PICTURE
    finally:
        secure.close()


def test_no_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert got(site.url("/picture"), policy(site)).data == PICTURE
