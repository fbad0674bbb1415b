"""Running the HTTP server: readiness of named models, signals, an orderly end."""

import asyncio
import resource
import signal
import socket
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from opta_lmx.api.encryption import Encryption, HttpServer
from opta_lmx.api.http1 import WRITE_TIMEOUT_S, protocol_class
from opta_lmx.api.ws_connection import (
    PING_INTERVAL_S,
    PING_TIMEOUT_S,
    frame_limit,
    websocket_class,
)
from opta_lmx.config.sections.tls import TlsSettings
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.quarantine import QUARANTINED
from opta_lmx.engine.residency import Engine
from opta_lmx.engine.restoring import NAMED
from opta_lmx.security.tls.contexts import Tls, TlsFiles
from opta_lmx.serving.service import Serving
from opta_lmx.tenancy.keyring import Keyring

_SETTLE_S = 2
_POLL_S = 0.05
_KEYS_S = 1.0
"""How often keys are read anew: another process may have made or ended some."""


def no_core_files() -> None:
    """Leave no image of memory behind when this process dies, nor when one it starts does.

    There are keys and prompts in it, in a file that nobody looks after.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class RunningApp(Protocol):
    """What the server needs of the composed application (`app.App`)."""

    @property
    def asgi(self) -> ASGIApp:
        """What answers requests."""
        ...

    @property
    def engine(self) -> Engine:
        """Loads the named models."""
        ...

    @property
    def serving(self) -> Serving:
        """Told when draining begins."""
        ...

    @property
    def keyring(self) -> Keyring:
        """Whose keys there are."""
        ...

    @property
    def encryption(self) -> Encryption:
        """How connections are encrypted."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def telemetry(self) -> Telemetry:
        """Where failures are logged."""
        ...

    def active_requests(self) -> int:
        """Requests running or waiting."""
        ...

    async def close(self) -> None:
        """End every worker and download."""
        ...


def uvicorn_config(
    app: ASGIApp,
    *,
    body_limit_bytes: int,
    write_timeout_s: float = WRITE_TIMEOUT_S,
    settle_s: int = _SETTLE_S,
) -> uvicorn.Config:
    """Return how uvicorn serves `app`.

    Args:
        app: what answers.
        body_limit_bytes: the largest request it takes, over WebSocket too.
        write_timeout_s: a client that takes none of the bytes waiting for it is cut after this.
        settle_s: how long connections may take to end once the server was told to exit.
    """
    return uvicorn.Config(
        app,
        http=protocol_class(write_timeout_s),
        ws=websocket_class(write_timeout_s),
        ws_max_size=frame_limit(body_limit_bytes),
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=PING_TIMEOUT_S,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        # It would believe anybody on this machine; `security.proxies` believes whom it is told.
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settle_s,
    )


def open_encryption(asked: TlsSettings, home: Path, telemetry: Telemetry) -> Encryption:
    """How connections are encrypted, as configured.

    Raises:
        LmxError: INVALID_REQUEST `invalid_config` for files that are not there or not sound.
    """
    if asked.certificate is None or asked.key is None:
        return Encryption()
    files = TlsFiles(
        certificate=asked.file(asked.certificate, home),
        key=asked.file(asked.key, home),
        client_ca=None if asked.client_ca is None else asked.file(asked.client_ca, home),
        required=asked.client_certificates == "required",
        newest_only=asked.min_version == "1.3",
    )
    return Encryption(Tls(files, telemetry), asked.handshake_timeout_s)


class Server:
    """One running server.

    Args:
        app: the composed application.
        listener: the bound socket.
        models: loaded before `/readyz` answers 200.
        drain_timeout_s: how long running answers may take to finish after a stop signal.
        body_limit_bytes: the largest request that is taken.
    """

    def __init__(
        self,
        app: RunningApp,
        listener: socket.socket,
        models: list[str],
        drain_timeout_s: float,
        body_limit_bytes: int,
    ) -> None:
        self._app = app
        self._listener = listener
        self._models = models
        self._drain_timeout_s = drain_timeout_s
        self._stop = asyncio.Event()
        self._failure: LmxError | None = None
        config = uvicorn_config(app.asgi, body_limit_bytes=body_limit_bytes)
        self._uvicorn = HttpServer(config, app.encryption, app.clock, app.telemetry)

    async def run(self) -> None:
        """Serve until a stop signal, then end in order. Raises what kept a named model away."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._on_signal)
        tls = self._app.encryption.tls
        if tls is not None:
            loop.add_signal_handler(signal.SIGHUP, tls.look)
        await self._app.engine.recovery.begin()
        serving = asyncio.create_task(self._uvicorn.serve([self._listener]))
        loading = asyncio.create_task(self._load_models())
        stopping = asyncio.create_task(self._stop.wait())
        keys = asyncio.create_task(self._follow_keys())
        # A server that learns of no revoked key any more must not go on.
        await asyncio.wait({serving, stopping, keys}, return_when=asyncio.FIRST_COMPLETED)
        self._app.engine.recovery.stopping()
        loading.cancel()
        await self._drain()
        keys.cancel()
        await asyncio.wait({keys})
        await self._app.close()
        self._uvicorn.should_exit = True
        await serving
        stopping.cancel()
        if self._failure is not None:
            raise self._failure
        if not keys.cancelled():
            keys.result()

    async def _follow_keys(self) -> None:
        while True:
            await self._app.clock.sleep(_KEYS_S)
            await self._app.keyring.refresh()
            await self._app.serving.budgeting.refresh()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._drain_timeout_s = 0.0
        self._stop.set()

    async def _load_models(self) -> None:
        engine = self._app.engine
        for name in self._models:
            try:
                await engine.load(name, reason=NAMED)
            except LmxError as error:
                self._app.telemetry.log(
                    "error", "named model cannot be loaded", model=name, reason=error.message
                )
                if error.code == QUARANTINED:
                    continue  # only a server that runs can be told to let it in again
                self._failure = error
                self._stop.set()
                return
        # Only now, so that nothing is loaded ahead into the memory of those that were named.
        await engine.restore()
        engine.look_after()

    async def _drain(self) -> None:
        """Let running answers finish; what remains is ended with a typed error by `close`."""
        self._app.serving.draining = True
        clock = self._app.clock
        deadline = clock.monotonic() + self._drain_timeout_s
        while self._app.active_requests() and clock.monotonic() < deadline:
            if self._drain_timeout_s == 0.0:
                return
            await clock.sleep(_POLL_S)
