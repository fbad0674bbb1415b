"""Takes connections in and encrypts them: who does not finish in time is cut, and so is a crowd.

An event loop's own TLS server keeps one context and one time limit for good; here each connection
begins with the context that is in force.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterable

from opta_lmx.core.clock import Clock
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.security.tls.contexts import Tls

MAX_HANDSHAKES = 512
"""Handshakes under way at once; for one more the oldest is cut: honest ones take milliseconds."""
LOOK_S = 1.0
"""How often files are looked at."""

_SHUTDOWN_S = 5.0
_WRITE_BUFFER_BYTES = 64 * 1024
_PAUSE_S = 1.0
_PASSING = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR})

_EXPIRED, _NOT_YET = 10, 9
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "HTTP_REQUEST": "plain_http",
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "NO_SHARED_CIPHER": "version",
    "WRONG_VERSION_NUMBER": "not_tls",
    "UNEXPECTED_EOF_WHILE_READING": "gone",
}


class TlsListener:
    """Makes encrypted connections of those that bound sockets take in.

    Args:
        tls: the context in force.
        handshake_timeout_s: how long a handshake may take.
        clock: time.
        telemetry: told of handshakes that fail, by a class of reasons.
    """

    def __init__(
        self, tls: Tls, handshake_timeout_s: float, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._tls = tls
        self._timeout_s = handshake_timeout_s
        self._clock = clock
        self._telemetry = telemetry
        self._tasks: list[asyncio.Task[None]] = []
        self._handshakes: dict[asyncio.Task[None], None] = {}

    def open(
        self, sockets: Iterable[socket.socket], factory: Callable[[], asyncio.Protocol]
    ) -> None:
        """Begin to take connections in; each gets a protocol once it is encrypted."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._accept(one, factory)) for one in sockets]
        self._tasks.append(loop.create_task(self._follow()))

    async def close(self) -> None:
        """Take none in any more, and cut those whose handshake is under way."""
        ended = [*self._tasks, *self._handshakes]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            self._tls.look()

    async def _accept(
        self, listener: socket.socket, factory: Callable[[], asyncio.Protocol]
    ) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in _PASSING:  # no descriptors are left, or the like
                    reason = error.strerror or str(error)
                    self._telemetry.log("error", "a connection was not taken in", reason=reason)
                    await self._clock.sleep(_PAUSE_S)
                continue
            self._begin(client, factory)

    def _begin(self, client: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        if len(self._handshakes) >= MAX_HANDSHAKES:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
            self._failed("crowded")
        task = asyncio.get_running_loop().create_task(self._shake_hands(client, factory))
        self._handshakes[task] = None
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _shake_hands(
        self, client: socket.socket, factory: Callable[[], asyncio.Protocol]
    ) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                factory,
                client,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError as error:  # SSLError is one; the socket is the loop's to close
            self._failed(reason_of(error))
        else:
            # As much as without TLS, where the loop's own choice is eight times that.
            transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def _failed(self, reason: str) -> None:
        self._telemetry.count("tls_handshake_failures_total", reason=reason)
        self._telemetry.log("debug", "a TLS handshake failed", reason=reason)


def reason_of(error: OSError) -> str:
    """The class of what ended a handshake: one of a dozen words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        expired = error.verify_code in (_EXPIRED, _NOT_YET)
        return "certificate_expired" if expired else "certificate_untrusted"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "_ALERT_" in reason:
            return "client_refused"
        return _REASONS.get(reason, "other")
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "timeout"
    return "gone"
