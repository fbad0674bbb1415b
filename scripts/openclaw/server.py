"""The real server with models made for the purpose, and what is done to it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from scripts.openclaw.failure import TurnError

# All three are one small model with random weights: fast, real, and babbling without end.
PLAIN = "nimble"
NARROW = "narrow"  # One slot and no waiting line.
SHORT = "pocket"  # A window that no turn fits in.
WINDOW = 32_768
SHORT_WINDOW = 4096
# The server asks for it, so that a way of showing a key that it does not understand is found.
KEY = "the-key-of-this-run"

_CONFIG = f"""
[server]
port = 0
api_keys = ["{KEY}"]
drain_timeout_s = 1.0
[engine]
backend = "gguf"
slots = 2
[engine.overrides.{NARROW}]
slots = 1
[queue.per_model]
{NARROW} = 0
"""
_READY_S = 120.0
_STOP_S = 30.0
_HELD_TOKENS = WINDOW - 1024
_HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Server:
    """A server that is ready: its address and its log."""

    url: str
    log: Path

    def model(self, name: str) -> dict[str, Any]:
        """The engine's own counters of a loaded model; nothing for one that is not loaded."""
        status = self._call("GET", "/admin/status")
        models = cast("list[dict[str, Any]]", status["models"])
        found = [model for model in models if model["id"] == name]
        return found[0] if found else {}

    def load(self, name: str) -> None:
        """Load a model."""
        self._call("POST", "/admin/models/load", {"model": name})

    def unload(self, name: str) -> None:
        """Unload a model if it is loaded."""
        if self.model(name):
            self._call("POST", "/admin/models/unload", {"model": name})

    def idle(self, name: str, limit_s: float = 60.0) -> None:
        """Wait until a model serves and has nobody in it."""
        self._until(name, limit_s, state="ready", running=0, waiting=0)

    def busy(self, name: str, waiting: int, limit_s: float = 60.0) -> None:
        """Wait until somebody has a model's only slot, and so many wait for it."""
        self._until(name, limit_s, running=1, waiting=waiting)

    def _until(self, name: str, limit_s: float, **wanted: Any) -> None:
        deadline = time.monotonic() + limit_s
        while not wanted.items() <= self.model(name).items():
            if time.monotonic() > deadline:
                raise TurnError(f"{name} is not {wanted} but {self.model(name)}")
            time.sleep(0.1)

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, _HEADERS, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_READY_S) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            raise TurnError(f"{method} {path}: {error.code} {error.read()!r}") from error
        except OSError as error:
            raise TurnError(f"{method} {path}: {error}") from error


class Holder:
    """Somebody with a long request, who keeps a slot until told to go."""

    def __init__(self, url: str, model: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._model = model
        self._thread = threading.Thread(target=self._read, name="holder")
        self._released = threading.Event()

    def start(self) -> None:
        """Ask; the answer is read as it comes, so that it is never held up."""
        messages = [{"role": "user", "content": "Count as far as you can."}]
        body: dict[str, Any] = {"model": self._model, "messages": messages, "stream": True}
        body["max_tokens"] = _HELD_TOKENS
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), _HEADERS)
        self._thread.start()

    def release(self) -> None:
        """Hang up; the server gives the slot back. May be called again, from any thread."""
        self._released.set()

    def join(self) -> None:
        """Hang up and wait until that is done."""
        self.release()
        if self._thread.is_alive():
            self._thread.join(60)

    def _read(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            reply = self._connection.getresponse()
            while not self._released.is_set() and reply.readline():
                pass
        self._connection.close()


def make_models(root: Path, scratch: Path) -> None:
    """Put the three models into a new store."""
    from opta_lmx.models.store import ModelStore
    from tests.support.tiny import write_gguf

    store = ModelStore(root)
    for name, window in ((PLAIN, WINDOW), (NARROW, WINDOW), (SHORT, SHORT_WINDOW)):
        file = scratch / f"{name}.gguf"
        write_gguf(file, context=window)
        store.add(file, name)
        file.unlink()


@contextmanager
def serving(home: Path, store: Path, models: Sequence[str]) -> Generator[Server]:
    """A server with a home folder of its own, ended on leaving; the models are loaded."""
    home.mkdir()
    (home / "config.toml").write_text(_CONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMX_")}
    env = kept | {"LMX_HOME": str(home), "LMX_MODELS__DIR": str(store)}
    log = home / "server.log"
    command = [sys.executable, "-m", "opta_lmx.cli.main", "serve"]
    for model in models:
        command += ["--model", model]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=env, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield Server(_ready_url(process, log), log)
    except TurnError:
        print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
        raise
    finally:
        _stop(process)


def write_config(server: Server, config: Path, model: str, root: str) -> None:
    """Have `opta-lmx openclaw config --write` write OpenClaw's configuration."""
    command = [sys.executable, "-m", "opta_lmx.cli.main", "openclaw", "config", "--write"]
    command += ["--url", root, "--model", model, "--api-key", KEY]
    env = os.environ | {"OPENCLAW_CONFIG_PATH": str(config), "LMX_HOME": str(server.log.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise TurnError(f"opta-lmx openclaw config: {done.stdout + done.stderr}")


def _ready_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the server has said where it listens and `/readyz` answers 200."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TurnError(f"the server ended with exit code {process.returncode}")
        found = re.search(r"listens on (http://\S+)", log.read_text(errors="replace"))
        if found and _status(f"{found[1]}/readyz") == 200:
            return found[1]
        time.sleep(0.2)
    raise TurnError(f"the server was not ready within {_READY_S:.0f} s")


def _status(url: str) -> int:
    try:
        request = urllib.request.Request(url, headers=_HEADERS)
        with urllib.request.urlopen(request, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
