"""A small real HTTP server that answers as told, and commands run against it."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from opta_lmx.cli.main import app

Command = Callable[..., Result]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Reply:
    """What a route writes: a JSON object, or a stream of events."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler

    def json(self, body: object, status: int = 200, **headers: str) -> None:
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(data)))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def start_stream(self) -> None:
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Connection", "close")
        self._handler.end_headers()

    def event(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self._handler.wfile.write(f"data: {text}\n\n".encode())
        self._handler.wfile.flush()

    def piece(self, text: str, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        self.event({"object": "chat.completion.chunk", "choices": [choice]})

    def end(self, tokens: int = 3, cached: int = 0) -> None:
        usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
        usage |= {"prompt_tokens_details": {"cached_tokens": cached}}
        self.event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.event("[DONE]")


Route = Callable[[Reply, Any], None]


@dataclass
class Upstream:
    """The server: its address, what it was asked, what it answers."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: object, status: int = 200, **h: str) -> None:
        self.routes[method, path] = lambda reply, _: reply.json(body, status, **h)


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            raw = self.rfile.read(length)
            body = json.loads(raw) if raw else None
            upstream.seen.append(Seen(self.command, self.path, dict(self.headers), body))
            missing = {"error": {"message": "No such route.", "code": "not_found"}}
            route = upstream.routes.get((self.command, self.path))
            if route is None:
                Reply(self).json(missing, 404)
            else:
                route(Reply(self), body)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    return Handler


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    state = Upstream()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lmx"
    folder.mkdir()
    monkeypatch.setenv("LMX_HOME", str(folder))
    return folder


@pytest.fixture
def command(home: Path) -> Command:
    def run(*arguments: str, input: str | None = None, **environment: str) -> Result:  # noqa: A002
        return CliRunner().invoke(
            app, arguments, input=input, env=environment, catch_exceptions=False
        )

    return run


@pytest.fixture
def unused_url() -> str:
    """An address at which nothing listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_address[1]}"
