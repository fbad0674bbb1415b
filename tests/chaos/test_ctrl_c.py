"""Ctrl-C on a terminal goes to the whole process group: also to a worker that is just starting."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, wait_gone
from tests.support.tiny import tiny_gguf
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc"),
]

ENV = {
    "LMX_ENGINE__THREADS": "1",
    "LMX_ENGINE__RESTART_BACKOFF_S": "0.05",
    "LMX_ENGINE__MAX_RESTARTS": "1",
}
INT = 1 << (signal.SIGINT - 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    store = ModelStore(root)
    store.sweep()
    store.add(tiny_gguf(), "g")
    return root


@contextlib.contextmanager
def on_a_terminal(home: Path, store: Path) -> Generator[ServerProcess]:
    """A server in a process group of its own, as a shell starts it."""
    log = home / "serve.log"
    command = [sys.executable, "-m", "opta_lmx.cli.main", "serve", "--port", "0", "--model", "g"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **ENV, "LMX_HOME": str(home), "LMX_MODELS__DIR": str(store)},
            process_group=0,
        )
    server = ServerProcess(process, log)
    try:
        yield server
    finally:
        server.http.close()
        if process.poll() is None:
            process.kill()
        process.wait()


def child(pid: int, but: int = 0) -> int:
    """The worker of a server, once it has one other than `but`."""
    children = Path(f"/proc/{pid}/task/{pid}/children")

    def found() -> list[int]:
        return [one for one in map(int, children.read_text().split()) if one != but]

    return moment(found)[0]


def moment(reached: Callable[[], list[int]]) -> list[int]:
    """What is there as soon as anything is: no pause, since what is waited for is short."""
    deadline = time.monotonic() + 60
    while not (found := reached()):
        assert time.monotonic() < deadline
    return found


def awake(pid: int) -> None:
    """Return when a process is our worker and handles SIGINT, or ignores it.

    It may ignore it from its start on: that is inherited, through the start of Python, too.
    """

    def minds() -> list[int]:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        running = b"python" in words[0] and b"opta_lmx.backends.worker" in words
        return (
            [1] if running and INT & (int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)) else []
        )

    moment(minds)


def started_by(home: Path) -> list[Path]:
    """Processes of a server of this home, whoever they belong to now."""
    mark = f"LMX_HOME={home}".encode()
    found: list[Path] = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes().split(b"\0"):
                found.append(environment)
    return found


def crashes(home: Path) -> int:
    path = home / "health.json"
    return len(json.loads(path.read_text())["g"]["crashes_ms"]) if path.exists() else 0


@pytest.mark.parametrize("when", ["it is awake", "it begins anew"])
def test_a_server_is_interrupted_when_a_worker_starts(
    tmp_path: Path, store: Path, when: str
) -> None:
    counted = 0
    with on_a_terminal(tmp_path, store) as server:
        group = server.process.pid
        worker = child(group)
        if when == "it begins anew":
            server.wait_ready()
            os.kill(worker, signal.SIGKILL)
            worker, counted = child(group, worker), 1
        awake(worker)
        os.killpg(group, signal.SIGINT)
        assert server.process.wait(60) == 0, server.log.read_text()
        wait_gone(worker, 20)
    logs = [server.log, *tmp_path.glob("logs/*")]
    assert "Traceback" not in "".join(path.read_text() for path in logs)
    assert "model out of service" not in server.log.read_text()
    assert crashes(tmp_path) == counted
    assert not (tmp_path / "loaded.json").exists(), "it was an orderly end"
    wait_until(lambda: not started_by(tmp_path), 20)
