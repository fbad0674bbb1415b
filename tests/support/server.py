"""A server of our own on a free loopback port, in a thread, over scripted models."""

import contextlib
import socket
import threading
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from opta_lmx.api import documents
from opta_lmx.api.encryption import HttpServer
from opta_lmx.app import App, build
from opta_lmx.config.settings import Settings
from opta_lmx.server import uvicorn_config
from tests.support.sim import SimResolver

# What the routes say of themselves is the same for every server, and half of a start's time.
documents.body_schema = cache(documents.body_schema)


class LiveServer:
    """What a test holds on to: address, application, settings, and what uvicorn holds."""

    def __init__(
        self,
        url: str,
        app: App,
        settings: Settings,
        resolver: SimResolver,
        state: uvicorn.server.ServerState,
    ) -> None:
        self.url = url
        self.settings = settings
        self.app = app
        self.resolver = resolver
        self.state = state

    def status(self, model: str) -> dict[str, Any]:
        """The engine's own counters of one model."""
        for status in self.app.engine.status():
            if status.id == model:
                return {name: getattr(status, name) for name in status.__struct_fields__}
        return {}


@contextlib.contextmanager
def sim_server(
    home: Path,
    scripts: dict[str, dict[str, Any]],
    *,
    slots: int = 4,
    max_waiting: int = 64,
    write_timeout_s: float = 30.0,
    send_buffer: int | None = None,
    **sections: Any,
) -> Generator[LiveServer]:
    """Serve scripted models; `sections` are configuration sections as dictionaries.

    `send_buffer` bounds what the kernel takes for a client that does not read (bytes).
    """
    settings = Settings.model_validate(
        {
            "logging": {"level": "error"},
            **sections,
            "queue": {"max_waiting": max_waiting, **sections.get("queue", {})},
        }
    )
    resolver = SimResolver(home / "logs", scripts, slots)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    started = threading.Event()
    box: list[Any] = []

    async def main() -> None:
        app = build(settings, home, [], resolver)
        app.engine.look_after()
        config = uvicorn_config(
            app.asgi,
            body_limit_bytes=settings.server.body_limit_bytes,
            write_timeout_s=write_timeout_s,
            settle_s=1,
        )
        server = HttpServer(config, app.encryption, app.clock, app.telemetry)
        box.extend([app, server])
        started.set()
        await server.serve([listener])
        await app.close()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    assert started.wait(20), "the server did not start"
    port = listener.getsockname()[1]
    try:
        url = f"{box[0].encryption.scheme}://127.0.0.1:{port}"
        yield LiveServer(url, box[0], settings, resolver, box[1].server_state)
    finally:
        box[1].should_exit = True
        thread.join(20)
        listener.close()
