"""URLs that have led other servers astray: every one is refused before anything is connected.

Names resolve by a table; whoever is asked for anything else than what was checked fails the test.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.security.addresses import Address, Networks
from opta_lmx.security.fetch import MAX_ADDRESSES, FetchPolicy, fetch
from opta_lmx.security.fetch_urls import MAX_URL_CHARS, may_be_asked, parse_url

POLICY = FetchPolicy(content_types=("*",), max_bytes=1000, total_s=5, ports=frozenset({8080}))
PUBLIC = "93.184.215.14"
NAMES = {
    "localhost": ["127.0.0.1", "::1"],
    "localhost.": ["127.0.0.1"],
    "rebound.example": ["127.0.0.1"],
    "mixed.example": [PUBLIC, "10.0.0.1"],
    "mixed6.example": [PUBLIC, "fd00::1"],
    "metadata.google.internal": ["169.254.169.254"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "nat64.example": ["64:ff9b::a00:1"],
    "xn--mnchen-3ya.example": ["192.168.0.1"],
    "zone.example": ["fe80::1"],
    "intranet": ["172.16.0.9"],
    "127.0.0.1.nip.example": ["127.0.0.1"],
    "many.example": [f"93.184.{n // 250}.{n % 250 + 1}" for n in range(MAX_ADDRESSES + 1)],
    "public.example": [PUBLIC],
}

REFUSED = (
    # what two parsers read differently
    "http://a\\@b",
    "http://public.example\\@127.0.0.1/",
    "http://127.0.0.1\\@public.example/",
    "http://public.example\\.internal/",
    "http:\\\\127.0.0.1/",
    "http:/\\127.0.0.1/",
    "http:/127.0.0.1/",
    "http:127.0.0.1",
    "http:///127.0.0.1/",
    "//127.0.0.1/",
    "http://public.example@127.0.0.1/",
    "http://127.0.0.1@public.example/",
    "http://user:word@public.example/",
    "http://@public.example/",
    "http://:@public.example/",
    "http://public.example#@127.0.0.1\\",
    "http://127.0.0.1#@public.example/",
    "http://127.0.0.1?@public.example/",
    "http://[::1]@public.example/",
    "http://public.example /",
    "http://public.example\t/",
    "http://public.example\r\nHost: 127.0.0.1/",
    "http://public.example\0/",
    " http://public.example/",
    "http://public.example%00/",
    "http://public.example%2f@127.0.0.1/",
    "http://127.0.0.1%2f.public.example/",
    "http://%31%32%37.0.0.1/",
    "http://public.example:80:80/",
    "http://public.example:0x50/",
    "http://public.example:-1/",
    "http://public.example:99999999999/",
    "http://public.example:65536/",
    "http://public.example:22/",
    "http://public.example:6379/",
    "http://public..example/",
    "http://.public.example/",
    "http://-public.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 140 + "example/",
    "http://public.example/" + "a" * MAX_URL_CHARS,
    # other schemes
    "file:///etc/passwd",
    "FILE://localhost/etc/passwd",
    "ftp://public.example/",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/",
    "ldap://127.0.0.1/",
    "jar:http://public.example!/",
    "data:text/plain,hello",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "ws://public.example/",
    "://public.example/",
    "public.example",
    "",
    # spellings of addresses
    "http://127.1",
    "http://127.0.1",
    "http://0",
    "http://0.0.0.0",
    "http://0x7f000001",
    "http://0x7f.0.0.1",
    "http://0x7f.1",
    "http://2130706433",
    "http://017700000001",
    "http://0177.0.0.1",
    "http://127.0.0.01",
    "http://127.0.0.1.",
    "http://127.0.0.1.0",
    "http://00000127.0.0.1",
    "http://4294967297",
    "http://1e1",
    "http://①②⑦.⓪.⓪.①",
    "http://127\u30020\u30020\u30021",
    "http://\uff11\uff12\uff17.0.0.1",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    # addresses that are not public
    "http://127.0.0.1",
    "http://127.255.255.254",
    "http://10.0.0.1",
    "http://172.31.255.255",
    "http://192.168.1.1",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/",
    "http://100.64.0.1",
    "http://192.0.0.192/",
    "http://192.0.2.1",
    "http://198.18.0.1",
    "http://198.51.100.1",
    "http://203.0.113.1",
    "http://192.88.99.1",
    "http://224.0.0.1",
    "http://240.0.0.1",
    "http://255.255.255.255",
    "http://[::]",
    "http://[::1]",
    "http://[0:0:0:0:0:0:0:1]",
    "http://[::127.0.0.1]",
    "http://[::ffff:127.0.0.1]",
    "http://[::ffff:7f00:1]",
    "http://[::ffff:0:127.0.0.1]",
    "http://[64:ff9b::7f00:1]",
    "http://[64:ff9b::169.254.169.254]",
    "http://[64:ff9b:1::1]",
    "http://[2002:7f00:1::]",
    "http://[2002:5db8:d70e::]",
    "http://[2001::1]",
    "http://[2001:db8::1]",
    "http://[3fff::1]",
    "http://[fc00::1]",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fe80::1]",
    "http://[fe80::1%25eth0]",
    "http://[::1%25lo]",
    "http://[fec0::1]",
    "http://[ff02::1]",
    "http://[100::1]",
    "http://[5f00::1]",
    "http://[::1",
    "http://::1/",
    "http://[127.0.0.1]/",
    "http://[v1.x]/",
    # names that lead to such
    "http://localhost",
    "http://LOCALHOST/",
    "http://localhost.",
    "http://localhost.:8080/",
    "http://rebound.example/",
    "https://rebound.example/",
    "http://mixed.example/",
    "http://mixed6.example/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://mapped.example/",
    "http://nat64.example/",
    "http://münchen.example/",
    "http://zone.example/",
    "http://intranet/",
    "http://127.0.0.1.nip.example/",
)


async def by_table(host: str, port: int) -> Sequence[Address]:
    return [ipaddress.ip_address(one) for one in NAMES[host]]


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where connections were tried."""
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def test_the_corpus_is_large() -> None:
    assert len(set(REFUSED)) == len(REFUSED) > 120


@pytest.mark.parametrize("url", REFUSED, ids=lambda url: ascii(url)[1:50])
def test_what_may_not_be_fetched_is_refused(url: str, unconnected: list[Any]) -> None:
    with pytest.raises(LmxError) as caught:
        asyncio.run(fetch(url, POLICY, resolve=by_table))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID_REQUEST, "url_refused")
    assert unconnected == []
    for secret in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1"):
        assert secret not in caught.value.message


def test_a_name_of_very_many_addresses_is_not_asked(unconnected: list[Any]) -> None:
    with pytest.raises(LmxError) as caught:
        asyncio.run(fetch("http://many.example/", POLICY, resolve=by_table))
    assert caught.value.code == "fetch_failed"
    assert unconnected == []


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://public.example", "public.example", None),
        ("HTTP://PUBLIC.EXAMPLE:80/", "public.example", 80),
        ("https://public.example:443/a?b#c", "public.example", None),
        ("http://public.example:8080/", "public.example", 8080),
        ("http://public.example./", "public.example.", None),
        ("http://sub_domain.public.example/", "sub_domain.public.example", None),
        ("http://münchen.example/ü?ü", "xn--mnchen-3ya.example", None),
        ("http://xn--mnchen-3ya.example/", "xn--mnchen-3ya.example", None),
        (f"http://{PUBLIC}/", PUBLIC, None),
        ("http://[2606:2800:21f:cb07::1]:8080/", "2606:2800:21f:cb07::1", 8080),
        ("http://public.example/a@b:c", "public.example", None),
        ("http://public.example/?u=http://127.0.0.1/@x", "public.example", None),
    ],
)
def test_what_may_be_fetched_is_read(url: str, host: str, port: int | None) -> None:
    read = parse_url(url)
    assert (read.raw_host.decode(), read.port) == (host, port)


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "2606:2800::1", f"::ffff:{PUBLIC}", "64:ff9b::808:808"]
)
def test_public_addresses_may_be_asked(address: str) -> None:
    assert may_be_asked(ipaddress.ip_address(address), Networks())


def test_every_special_network_of_the_language_is_known_here() -> None:
    """What Python calls private is refused, whatever this version of it knows."""
    for first in range(256):
        for second in (0, 1, 18, 64, 88, 100, 127, 168, 175, 254):
            for rest in ("0.1", "2.1", "99.1", "100.1", "113.1"):
                address = ipaddress.ip_address(f"{first}.{second}.{rest}")
                if not address.is_global or address.is_multicast or address.is_reserved:
                    assert not may_be_asked(address, Networks()), address


def test_allowed_networks_open_just_themselves() -> None:
    allowed = Networks.parse(["10.1.0.0/16", "fd00:1::/32"])
    for text, expected in (
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("64:ff9b::a01:203", True),
        ("10.2.0.1", False),
        ("fd00:1::5", True),
        ("fd00:2::5", False),
        ("127.0.0.1", False),
    ):
        assert may_be_asked(ipaddress.ip_address(text), allowed) is expected, text


def test_the_connection_goes_where_the_check_looked(unconnected: list[Any]) -> None:
    """A name that changes its mind between two look-ups is looked up once."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])

    async def flipping(host: str, port: int) -> Sequence[Address]:
        return [ipaddress.ip_address(one) for one in next(answers)]

    with pytest.raises(LmxError) as caught:
        asyncio.run(fetch("http://flips.example/", POLICY, resolve=flipping))
    assert caught.value.code == "fetch_failed"
    assert next(answers) == ["127.0.0.1"], "it was not asked for again"
