"""What the first token that a loaded model is asked for says of it."""

import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from opta_lmx.backends.gguf import http
from opta_lmx.backends.gguf.canary import try_once
from opta_lmx.backends.protocol import LoadError


def test_an_engine_that_does_not_answer_says_nothing_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as told:
        try_once(str(tmp_path / "nobody.sock"), 100)
    assert told.value.code == "load_failed"


class SlowEngine(BaseHTTPRequestHandler):
    """Thinks for longer than other calls may."""

    asked: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        threading.Event().wait(0.5)
        type(self).asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def address_string(self) -> str:
        return "a client without an address"

    def log_message(self, *_: object) -> None:
        """Silent."""


def test_a_slow_first_token_is_for_the_loads_own_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_TIMEOUT_S", 0.1)
    SlowEngine.asked = []
    with ThreadingUnixStreamServer(str(tmp_path / "s"), SlowEngine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(TimeoutError):
                http.call(str(tmp_path / "s"), "/tokenize", {})
            try_once(str(tmp_path / "s"), 100)
        finally:
            server.shutdown()
            thread.join(20)
    assert SlowEngine.asked[-2:] == ["/completion", "/slots/0?action=erase"]
