"""Fetches what a client names by URL, without becoming the client's hand in the operator's network.

A name is resolved once; every address it has must be public or allowed, and the connection goes
to one of just those. Redirects are followed here, each checked as if a client had named it.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import httpx
import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.security.addresses import Address, Networks
from opta_lmx.security.fetch_urls import (
    has_usual_port,
    literal_address,
    may_be_asked,
    parse_url,
    port_of,
    refused_url,
)

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
"""Finds the addresses of a host name and port; raises OSError where there are none."""

MAX_ADDRESSES = 16
MAX_LOOKUPS = 8
"""Names that are looked up at once, by everybody."""
_TRIED = 3
"""Addresses of one host that are tried before it counts as out of reach."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGENT = "opta-lmx"


class FetchPolicy(msgspec.Struct, frozen=True):
    """What may be fetched, and how much of it.

    Attributes:
        content_types: media types that are taken, `*` for any run of characters (`image/*`).
        max_bytes: of the body.
        total_s: for everything, from the first look-up to the last byte (s).
        max_redirects: hops after the first.
        ports: besides 80 for http and 443 for https.
        networks: addresses that may be asked though they are not public.
    """

    content_types: tuple[str, ...]
    max_bytes: int
    total_s: float = 10.0
    max_redirects: int = 3
    ports: frozenset[int] = frozenset()
    networks: Networks = Networks()


class Fetched(msgspec.Struct, frozen=True):
    """What a URL led to: the body, its media type in lower case, and where it was found."""

    data: bytes
    content_type: str
    final_url: str


class _Lookups:
    """Counts those under way: one cannot be ended, and holds a thread that others need, too."""

    def __init__(self) -> None:
        self._running = 0

    async def ask(self, host: str, port: int) -> list[tuple[Any, ...]]:
        if self._running >= MAX_LOOKUPS:
            raise _failed("too many names are being looked up")
        asking = asyncio.ensure_future(
            asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        self._running += 1
        asking.add_done_callback(self._ended)
        # Whoever waits may go; it counts until it is over.
        return [*await asyncio.shield(asking)]

    def _ended(self, asking: "asyncio.Future[Any]") -> None:
        self._running -= 1
        if not asking.cancelled():
            asking.exception()


_lookups = _Lookups()


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Ask the operating system, as any program here would.

    Raises:
        OSError: there is no such host.
        LmxError: UPSTREAM_FAILED `fetch_failed` while too many others are asked for.
    """
    found = await _lookups.ask(host, port)
    # A zone (`fe80::1%eth0`) is left in place: such an address is refused.
    return [ipaddress.ip_address(address[0]) for *_, address in found]


async def fetch(
    url: str,
    policy: FetchPolicy,
    *,
    resolve: Resolve = resolve,
    tls: ssl.SSLContext | None = None,
) -> Fetched:
    """Fetch a URL by GET, with no key, cookie or proxy of this machine.

    Args:
        url: what a client named.
        policy: what may be fetched.
        resolve: finds addresses.
        tls: whose certificates are believed; the system's choice by default.

    Raises:
        LmxError: INVALID_REQUEST `url_refused`, `fetched_too_large`, `fetched_type_refused`;
            UPSTREAM_FAILED `fetch_failed`, `fetch_timeout`.
    """
    try:
        async with asyncio.timeout(policy.total_s):
            return await _Fetching(policy, resolve, tls or _system_tls()).run(url)
    except TimeoutError:
        raise _failed(f"it took more than {policy.total_s:g} s", "fetch_timeout") from None


@functools.cache
def _system_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Fetching:
    """One fetch, hop by hop."""

    def __init__(self, policy: FetchPolicy, resolve: Resolve, tls: ssl.SSLContext) -> None:
        self._policy = policy
        self._resolve = resolve
        self._tls = tls

    async def run(self, text: str) -> Fetched:
        url = parse_url(text)
        for _ in range(self._policy.max_redirects + 1):
            found = await self._hop(url)
            if isinstance(found, Fetched):
                return found
            url = found
        raise refused_url(f"it leads on more than {self._policy.max_redirects} times")

    async def _hop(self, url: httpx.URL) -> Fetched | httpx.URL:
        """What the URL holds, or where it leads on to."""
        port = port_of(url)
        if not has_usual_port(url) and port not in self._policy.ports:
            raise refused_url(f"port {port} is not among those that may be asked")
        addresses = await self._addresses(url, port)
        failure: httpx.HTTPError | None = None
        for address in addresses[:_TRIED]:
            try:
                return await self._ask(url, address)
            except httpx.ConnectError as error:
                failure = error
            except httpx.TimeoutException:
                raise TimeoutError from None
            except (httpx.HTTPError, httpx.InvalidURL):
                raise _failed("the connection or its answer is broken") from None
        raise _failed("nobody can be reached there") from failure

    async def _addresses(self, url: httpx.URL, port: int) -> Sequence[Address]:
        """Where the host is: found once, and all of it judged."""
        host = url.raw_host.decode("ascii")
        literal = literal_address(host)
        if literal is not None:
            found: Sequence[Address] = [literal]
        else:
            try:
                found = await self._resolve(host, port)
            except (OSError, ValueError):
                raise _failed("its host is not known") from None
        distinct = list(dict.fromkeys(found))
        if not distinct or len(distinct) > MAX_ADDRESSES:
            raise _failed("its host has no address, or too many")
        if not all(may_be_asked(one, self._policy.networks) for one in distinct):
            raise refused_url("it leads to an address that is not public")
        return distinct

    async def _ask(self, url: httpx.URL, address: Address) -> Fetched | httpx.URL:
        # Its own client for each hop: nothing that one host sets is carried to the next.
        client = httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=self._policy.total_s,
        )
        async with (
            client,
            client.stream(
                "GET",
                _at(url, address),
                headers=_headers(url, self._policy),
                extensions=_server_name(url),
            ) as reply,
        ):
            if reply.status_code in _REDIRECTS and "location" in reply.headers:
                return _next(url, reply.headers["location"])
            if reply.status_code != 200:
                raise _failed(f"it answers with status {reply.status_code}")
            return await self._read(url, reply)

    async def _read(self, url: httpx.URL, reply: httpx.Response) -> Fetched:
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not any(fnmatchcase(kind, pattern) for pattern in self._policy.content_types):
            raise LmxError(
                ErrorKind.INVALID_REQUEST,
                "What this URL holds is of another type than is taken here.",
                code="fetched_type_refused",
            )
        # Nothing was asked to be packed: what is, would have to be unpacked without a known end.
        if reply.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise _failed("it is packed although it was not asked to be")
        declared = reply.headers.get("content-length", "0")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > self._policy.max_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        async for part in reply.aiter_raw():
            size += len(part)
            if size > self._policy.max_bytes:
                raise self._too_large()
            parts.append(part)
        return Fetched(b"".join(parts), kind, str(url.copy_with(fragment=None)))

    def _too_large(self) -> LmxError:
        return LmxError(
            ErrorKind.INVALID_REQUEST,
            f"What this URL holds is larger than {self._policy.max_bytes} bytes.",
            code="fetched_too_large",
        )


def _at(url: httpx.URL, address: Address) -> httpx.URL:
    """The URL with the address in place of the host."""
    return url.copy_with(host=str(address), port=port_of(url), fragment=None)


def _headers(url: httpx.URL, policy: FetchPolicy) -> dict[str, str]:
    return {
        "Host": url.netloc.decode("ascii"),
        "Accept": ", ".join(policy.content_types),
        "Accept-Encoding": "identity",
        "User-Agent": _AGENT,
    }


def _server_name(url: httpx.URL) -> dict[str, str]:
    """The name that a certificate must be for; an address is its own."""
    host = url.raw_host.decode("ascii")
    return {} if literal_address(host) else {"sni_hostname": host.removesuffix(".")}


def _next(url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads, held to the rules of what clients name."""
    try:
        text = str(url.join(location)) if _is_plain(location) else location
    except (httpx.InvalidURL, ValueError):
        raise refused_url("it leads on to what is no URL") from None
    target = parse_url(text)
    if url.scheme == "https" and target.scheme != "https":
        raise refused_url("it leads from https on to http")
    return target


def _is_plain(location: str) -> bool:
    """Whether a redirect may be read relative to where it stood: what is unfit must stay so."""
    return location.isascii() and location.isprintable() and not set(location) & set(' \\"<>^`{|}')


def _failed(reason: str, code: str = "fetch_failed") -> LmxError:
    return LmxError(
        ErrorKind.UPSTREAM_FAILED, f"This URL could not be fetched: {reason}.", code=code
    )
