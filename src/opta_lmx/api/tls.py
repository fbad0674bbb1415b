"""Who asks, by the certificate of the connection: its own, or the one that a gateway tells of."""

from collections.abc import Callable, Sequence

import msgspec
from starlette.datastructures import Headers
from starlette.types import Scope

from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.principal import Principal
from opta_lmx.security.proxies import PASSED_ON
from opta_lmx.security.tls.mapping import Rule, identify, is_gateway, told_names
from opta_lmx.security.tls.session import Names, Peer, peer_of

_MAX_NAME = 512


class Gateways(msgspec.Struct, frozen=True):
    """Proxies whose own certificate is checked, and where they tell of their clients'."""

    names: tuple[str, ...] = ()
    san_header: str = "x-opta-client-san"
    subject_header: str = "x-opta-client-subject"


class Shown:
    """What the certificate of a connection stands for.

    Args:
        owner: whose it is; None where no rule says, and a key must.
        peer: who shows it; None for a connection without one.
        clock: tells when it ends.
    """

    def __init__(self, owner: Principal | None, peer: Peer | None, clock: Clock) -> None:
        self._owner = owner
        self._peer = peer
        self._clock = clock

    def with_key(self, shown: str, find: Callable[[str], Principal | None]) -> Principal | None:
        """Who asks, with this certificate and a key (empty for none); None: nobody known.

        A key says what may be done, as it does without a certificate.
        `find` tells whose a key is.

        Raises:
            LmxError: UNAUTHENTICATED `certificate_ended`; FORBIDDEN `tenant_mismatch` where the
                two are not of one tenant.
        """
        self._check_end()
        if self._owner is None:
            return find(shown)
        if not shown:
            return self._owner
        found = find(shown)
        if found is not None and found.tenant != self._owner.tenant:
            raise LmxError(
                ErrorKind.FORBIDDEN,
                "The key and the client's certificate are not of the same tenant.",
                code="tenant_mismatch",
            )
        return found

    def ends_ms(self, key_ends_ms: int | None) -> int | None:
        """When the first of the two ends, in UTC milliseconds; None for never."""
        if self._peer is None or self._owner is None:
            return key_ends_ms
        return min(self._peer.ends_ms, key_ends_ms or self._peer.ends_ms)

    def _check_end(self) -> None:
        """A connection may outlive the certificate that it began with, and who vouched for it."""
        peer = self._peer
        if peer is not None and (peer.trust.ended or self._clock.now_ms() >= peer.ends_ms):
            raise LmxError(
                ErrorKind.UNAUTHENTICATED,
                "The certificate of this connection counts no more: connect again with a new one.",
                code="certificate_ended",
            )


class Certificates:
    """Whose certificates are.

    Args:
        rules: in the order they are tried.
        gateways: proxies that may tell of others' certificates.
        clock: tells when certificates end.
    """

    def __init__(self, rules: Sequence[Rule], gateways: Gateways, clock: Clock) -> None:
        self._rules = rules
        self._gateways = gateways
        self._clock = clock

    def shown(self, scope: Scope, headers: Headers) -> Shown:
        """What the certificate behind a request stands for.

        A gateway's own stands for nobody. Whatever else it tells, its client is elsewhere: the
        scope gets `PASSED_ON`. What others write into its headers is not looked at.

        Raises:
            LmxError: INVALID_REQUEST `invalid_header` for what a gateway tells twice.
        """
        peer = peer_of(scope)
        if peer is None:
            return Shown(None, None, self._clock)
        names = peer.names
        if is_gateway(self._gateways.names, names):
            scope[PASSED_ON] = True
            names = self._told(headers)
        return Shown(identify(self._rules, names), peer, self._clock)

    def _told(self, headers: Headers) -> Names:
        asked = self._gateways
        san, subject = (_one(headers, name) for name in (asked.san_header, asked.subject_header))
        return told_names(san, subject)


def _one(headers: Headers, name: str) -> str:
    """The value of a header, empty for none. Raises INVALID_REQUEST where there are several."""
    values = headers.getlist(name)
    if len(values) > 1 or any(len(value) > _MAX_NAME for value in values):
        raise invalid(
            f"The header '{name}' must be there once, with at most {_MAX_NAME} characters.",
            param=name,
            code="invalid_header",
        )
    return values[0].strip() if values else ""


NO_CERTIFICATES = Certificates((), Gateways(), SystemClock())
"""Where clients are asked for none."""
