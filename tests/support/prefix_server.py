"""A server in a thread whose prefix caches tell what they are asked for."""

import contextlib
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop

from opta_lmx.app import App, build
from opta_lmx.backends.frames import Submit
from opta_lmx.config.settings import Settings
from opta_lmx.engine import options
from opta_lmx.engine.caching import PrefixCache, Wish
from opta_lmx.engine.prefix.tree import WIDTH, common
from opta_lmx.engine.residency import Resolver
from opta_lmx.server import uvicorn_config


class Asked:
    """Every prompt that was submitted, in order, and what of it an earlier one had."""

    def __init__(self) -> None:
        self.requests: list[Submit] = []
        self.shared: list[int] = []
        self._seen: list[Wish] = []

    def note(self, request: Submit, wish: Wish) -> None:
        """A request goes to the worker."""
        earlier = (common(one.ids, wish.ids) for one in self._seen if one.salt == wish.salt)
        length = len(wish.ids) // WIDTH
        self.requests.append(request)
        # A hit always leaves one token.
        self.shared.append(min(max(earlier, default=0), length - 1))
        self._seen.append(wish)


class PrefixServer:
    """What a test holds on to."""

    def __init__(self, url: str, app: App, asked: Asked) -> None:
        self.url = url
        self.app = app
        self.asked = asked
        self.http = httpx.Client(base_url=url, timeout=120)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(f"opta_lmx_{name}")]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@contextlib.contextmanager
def prefix_server(
    home: Path, resolver: Resolver | None = None, **sections: Any
) -> Generator[PrefixServer]:
    """Serve on a free loopback port; `sections` are configuration sections as dictionaries."""
    settings = Settings.model_validate({"logging": {"level": "error"}, **sections})
    asked = Asked()

    class Telling(PrefixCache):
        def planned(self, request: Submit, wish: Wish) -> Submit:
            made = super().planned(request, wish)
            asked.note(made, wish)
            return made

    patch = pytest.MonkeyPatch()
    patch.setattr(options, "PrefixCache", Telling)
    started = threading.Event()
    box: list[Any] = []

    async def main() -> None:
        app = build(settings, home, [], resolver)
        config = uvicorn_config(app.asgi, body_limit_bytes=2**24, write_timeout_s=30.0, settle_s=1)
        config.port = 0
        server = uvicorn.Server(config)
        box.extend([app, server])
        serving = server.serve()
        started.set()
        await serving
        await app.close()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    try:
        assert started.wait(20), "the server did not start"
        server = box[1]
        while not server.started:
            threading.Event().wait(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        live = PrefixServer(f"http://127.0.0.1:{port}", box[0], asked)
        try:
            yield live
        finally:
            live.http.close()
    finally:
        patch.undo()
        box[1].should_exit = True
        thread.join(60)
        assert not thread.is_alive()
