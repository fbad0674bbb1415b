"""The real program as a user starts it: `opta-lmx serve` in a process of its own."""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx

_LISTENING = re.compile(r"listens on (https?://\S+)")


class ServerProcess:
    """A running `opta-lmx serve`; `trust`, where it speaks TLS, is how it is asked."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", log: Path, trust: ssl.SSLContext | None = None
    ) -> None:
        self.process = process
        self.log = log
        self.url = ""
        self.http = httpx.Client(timeout=60, verify=trust or True)

    def wait_listening(self, timeout_s: float = 60) -> None:
        """Wait for the line that names the address."""
        deadline = time.monotonic() + timeout_s
        while not self.url:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            found = _LISTENING.search(self.log.read_text())
            # Certificates are made for the name: the address is not among theirs.
            told = found.group(1) if found else ""
            self.url = told.replace("https://127.0.0.1:", "https://localhost:")
            time.sleep(0.02)

    def wait_ready(self, timeout_s: float = 180) -> None:
        """Wait until `/readyz` answers 200."""
        self.wait_listening()
        deadline = time.monotonic() + timeout_s
        while self.http.get(f"{self.url}/readyz").status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def models(self) -> dict[str, dict[str, Any]]:
        """The engine's own counters by model."""
        data = self.http.get(f"{self.url}/admin/status", timeout=10).json()["models"]
        return {model["id"]: model for model in data}

    def load(self, model: str, backend: str | None = None) -> dict[str, Any]:
        """Load a model and return the server's answer."""
        body = {"model": model} | ({"backend": backend} if backend else {})
        reply = self.http.post(f"{self.url}/admin/models/load", json=body, timeout=300)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


def start_server(
    home: Path, *arguments: str, trust: ssl.SSLContext | None = None, **environment: str
) -> ServerProcess:
    """Start the program on a free port; `environment` holds `LMX_…` settings."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "test-serve.log"
    command = [sys.executable, "-m", "opta_lmx.cli.main", "serve", "--port", "0", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "LMX_HOME": str(home), **environment},
        )
    return ServerProcess(process, log, trust)


@contextlib.contextmanager
def running_server(
    home: Path,
    *arguments: str,
    key: str | None = None,
    trust: ssl.SSLContext | None = None,
    **environment: str,
) -> Generator[ServerProcess]:
    """A ready server that is ended with the block, by force if it must be; it is asked by `key`."""
    server = start_server(home, *arguments, trust=trust, **environment)
    if key is not None:
        server.http.headers["Authorization"] = f"Bearer {key}"
    try:
        server.wait_ready()
        yield server
    finally:
        server.http.close()
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


def alive(pid: int) -> bool:
    """True while a process runs (a zombie does not)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        os.kill(pid, 0)
        return True


def wait_gone(pid: int, timeout_s: float) -> float:
    """Seconds until a process has ended; fails after `timeout_s`."""
    began = time.monotonic()
    while alive(pid):
        assert time.monotonic() - began < timeout_s, f"process {pid} still runs"
        time.sleep(0.02)
    return time.monotonic() - began


def running_below(parent: int, module: str) -> list[int]:
    """Processes of a process that run a module of ours."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, ppid, command in rows if int(ppid) == parent and module in command]
