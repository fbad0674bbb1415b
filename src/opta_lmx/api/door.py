"""Who is let in: the names a request comes under, the key it shows, what that was given for."""

import functools
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.types import Scope

from opta_lmx.api import rules
from opta_lmx.api.callers import ENDS, KNOWN, OWNER, PRINCIPAL, insufficient_scope
from opta_lmx.api.credentials import shown_key, shown_ticket
from opta_lmx.api.tickets import PATH as TICKETS_PATH
from opta_lmx.api.tickets import Tickets
from opta_lmx.api.tls import NO_CERTIFICATES, Certificates
from opta_lmx.core import principal
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.security.failures import AuthFailures
from opta_lmx.security.proxies import PASSED_ON
from opta_lmx.tenancy.key_book import unauthenticated
from opta_lmx.tenancy.keyring import Keyring

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SHOWN = 200


class DoorRules(msgspec.Struct, frozen=True):
    """What is asked of everybody, whatever key they show.

    `allowed_hosts` are names besides the usual loopback ones, compared without regard to case
    and to a dot at the end; `check_host` holds the Host header to them, `check_origin` a web
    page's: a foreign page must reach the server neither as itself nor through a name of its own
    that resolves here.
    `remote_admin`: the scope `admin` may be used from other machines.
    """

    allowed_hosts: frozenset[str] = frozenset()
    check_host: bool = True
    check_origin: bool = True
    remote_admin: bool = True


class Door:
    """Lets requests in, or says why not.

    Args:
        asked: what is asked of everybody.
        keyring: whose keys there are.
        failures: how often each address has shown a wrong one.
        certificates: whose those are that clients show.
        tickets: what opens a socket in place of a key; None: nothing does.
    """

    def __init__(
        self,
        asked: DoorRules,
        keyring: Keyring,
        failures: AuthFailures,
        certificates: Certificates = NO_CERTIFICATES,
        tickets: Tickets | None = None,
    ) -> None:
        self._asked = asked
        self._keyring = keyring
        self._failures = failures
        self._certificates = certificates
        self._tickets = tickets
        self._names = _LOOPBACK_NAMES | {_plain_name(name) for name in asked.allowed_hosts}

    def check(self, scope: Scope, headers: Headers) -> None:
        """Let a connection in; its scope then tells whose key it has shown.

        Raises:
            LmxError: FORBIDDEN `host_not_allowed`, `origin_not_allowed`, `insufficient_scope`,
                `admin_not_from_here`, `tenant_mismatch`; UNAUTHENTICATED `invalid_api_key`,
                `certificate_ended`; RATE_LIMITED `too_many_auth_failures`; INVALID_REQUEST for a
                key shown in a wrong way.
        """
        self._check_names(headers)
        self._check_site(scope, headers)
        needed = rules.scope_of(scope["type"], scope.get("method", ""), scope["path"])
        if self._keyring.required and not rules.is_open(scope["path"]):
            self._check_key(scope, headers, needed)
        elif needed is principal.Scope.ADMIN and not self._may_administer(scope):
            raise _too_far()
        elif _lasts(scope, needed):
            scope[OWNER] = self._anybody

    def _anybody(self) -> Principal:
        """Who came in without a key, until the first one is made."""
        if self._keyring.required:
            raise unauthenticated()
        return Principal()

    def _check_key(self, scope: Scope, headers: Headers, needed: principal.Scope | None) -> None:
        shown = shown_key(scope, headers, admin=needed is principal.Scope.ADMIN)
        certificate = self._certificates.shown(scope, headers)
        ticket, find = None, self._keyring.owner
        if not shown and self._tickets is not None:
            # One that is no ticket (any more) counts as a wrong key; that it is a key is not asked.
            shown, ticket = shown_ticket(scope), self._tickets.taken_from(scope, headers)
            find = _nobody if ticket is None else ticket.owner
        found = certificate.with_key(shown, find)
        if found is None:
            raise self._stranger(_address(scope), shown)
        scope[KNOWN] = found
        near = self._may_administer(scope)
        owner = scope[PRINCIPAL] = _granted(found, needed, near=near)
        structlog.contextvars.bind_contextvars(key=owner.key)
        ends_ms = self._keyring.ends_ms(shown) if ticket is None else ticket.ends_ms
        scope[ENDS] = certificate.ends_ms(ends_ms)
        if _lasts(scope, needed):
            anew = functools.partial(certificate.with_key, shown, find)
            scope[OWNER] = functools.partial(_again, anew, needed, near=near)

    def _may_administer(self, scope: Scope) -> bool:
        return self._asked.remote_admin or _is_near(scope)

    def _stranger(self, address: str, shown: str) -> LmxError:
        """What who shows no good key is told; guessing is slowed down, asking without is not."""
        if shown:
            wait_s = self._failures.retry_after(address)
            if wait_s is not None:
                return LmxError(
                    ErrorKind.RATE_LIMITED,
                    "Too many wrong keys came from this address. Retry later.",
                    code="too_many_auth_failures",
                    retry_after=wait_s,
                )
            self._failures.failed(address)
        return unauthenticated()

    def _check_names(self, headers: Headers) -> None:
        host = headers.get("host", "localhost")
        if self._asked.check_host and _name_in("//" + host) not in self._names:
            raise LmxError(
                ErrorKind.FORBIDDEN,
                f"This server does not answer to the host name '{host[:_SHOWN]}'.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is None or not self._asked.check_origin:
            return
        if _name_in(origin) not in self._names:
            raise _foreign()

    def _check_site(self, scope: Scope, headers: Headers) -> None:
        """A browser's own word, where it names no origin: for a picture or script of a page.

        Who follows a link is let in: that changes nothing, and the other page reads nothing.
        """
        if "origin" in headers or not self._asked.check_origin:
            return
        follows = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") == "GET"
        if headers.get("sec-fetch-site") == "cross-site" and not follows:
            raise _foreign()


def _lasts(scope: Scope, needed: principal.Scope | None) -> bool:
    """Whether to look again later: a socket stays open for days, a body may come slowly."""
    asked_again = needed is principal.Scope.ADMIN or scope["path"] == TICKETS_PATH
    return scope["type"] == "websocket" or asked_again


def _nobody(_: str) -> None:
    """Whose a word is that stood where only a ticket may."""


def _again(
    find: Callable[[], Principal | None], needed: principal.Scope | None, *, near: bool
) -> Principal:
    owner = find()
    if owner is None:
        raise unauthenticated()
    return _granted(owner, needed, near=near)


def _granted(owner: Principal, needed: principal.Scope | None, *, near: bool) -> Principal:
    """The owner, with what the key may be used for from where it is shown. Raises FORBIDDEN."""
    if needed is not None and needed not in owner.scopes:
        raise insufficient_scope(needed)
    if near:
        return owner
    if needed is principal.Scope.ADMIN:
        raise _too_far()
    # A route that asks for the scope later must not find it either.
    return msgspec.structs.replace(owner, scopes=owner.scopes - {principal.Scope.ADMIN})


def _address(scope: Scope) -> str:
    """Who asks, as the network tells; empty where it does not."""
    client = scope.get("client")
    return client[0] if client else ""


def _is_near(scope: Scope) -> bool:
    """True where who asks is on this machine.

    Never for what a proxy passed on: clients in the proxies' own networks may claim any address.
    """
    if PASSED_ON in scope:
        return False
    try:
        found = ipaddress.ip_address(_address(scope))
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _name_in(url: str) -> str | None:
    """The host of a URL; None when there is none, or the URL is malformed."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return _plain_name(host) if host else None


def _plain_name(host: str) -> str:
    """One spelling of a host: its case, a dot at the end and brackets say nothing."""
    name = host.casefold().removesuffix(".")
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return name


def _foreign() -> LmxError:
    return LmxError(
        ErrorKind.FORBIDDEN,
        "Requests from this web origin are refused.",
        code="origin_not_allowed",
    )


def _too_far() -> LmxError:
    return LmxError(
        ErrorKind.FORBIDDEN,
        "Under this server's security profile only its own machine may administer it.",
        code="admin_not_from_here",
    )
