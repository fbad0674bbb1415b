"""uvicorn behind TLS of our own: connections come encrypted to the protocol that answers them."""

import asyncio
import contextlib
import socket
from collections.abc import Generator, Mapping
from functools import partial

import msgspec
import uvicorn
from uvicorn.config import Config

from opta_lmx.api.http1 import HttpProtocol
from opta_lmx.core.clock import Clock
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.security.tls.contexts import Tls
from opta_lmx.security.tls.listener import TlsListener


class Encryption(msgspec.Struct, frozen=True):
    """How connections are encrypted; `tls` None: they are not."""

    tls: Tls | None = None
    handshake_timeout_s: float = 10.0

    @property
    def scheme(self) -> str:
        """How the server's URLs begin."""
        return "http" if self.tls is None else "https"

    def ends(self) -> Mapping[str, float]:
        """When certificates end, by name, in UTC seconds."""
        return {} if self.tls is None else self.tls.ends()


class HttpServer(uvicorn.Server):
    """Serves on sockets that are bound already, and leaves signals to whoever runs it.

    Args:
        config: uvicorn's.
        encryption: how connections are encrypted.
        clock: time.
        telemetry: told of what goes wrong before there is a request.
    """

    def __init__(
        self, config: Config, encryption: Encryption, clock: Clock, telemetry: Telemetry
    ) -> None:
        super().__init__(config)
        self._listener: TlsListener | None = None
        if encryption.tls is not None:
            timeout_s = encryption.handshake_timeout_s
            self._listener = TlsListener(encryption.tls, timeout_s, clock, telemetry)
            encryption.tls.on_distrust(self._retire)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: stopping is drain, then end."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections in."""
        if self._listener is None or not sockets:
            await super().startup(sockets)
            return
        await super().startup([])  # all but the listening
        self._listener.open(sockets, self._protocol)

    def _protocol(self) -> asyncio.Protocol:
        return partial(self.config.http_protocol_class)(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take none in any more, and end."""
        if self._listener is not None:
            await self._listener.close()
        await super().shutdown(sockets)

    def _retire(self) -> None:
        """Have clients connect anew, once their answers are written.

        A WebSocket goes on: it is refused its next request, and streams end as they would.
        """
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.shutdown()
