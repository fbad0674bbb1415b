"""Servers as child processes on free loopback ports: ours, mlx_lm.server and llama-server."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import procs
from benchmarks.client import Target

ROOT = Path(__file__).resolve().parents[1]
READY_S = 180.0
_END_S = 10.0
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class StartError(Exception):
    """A child process did not come up; the message ends with its last lines of output."""


class Command(msgspec.Struct, frozen=True):
    """How to start a server: `{port}` in an argument is replaced by the chosen port.

    `key` is shown by who asks whether it is ready, where it wants one.
    """

    name: str
    model: str
    arguments: list[str]
    ready_path: str
    environment: dict[str, str] = {}
    key: str = ""


class Peer(msgspec.Struct, frozen=True):
    """A running server: where it answers, its root process, and the file it writes to."""

    name: str
    target: Target
    pid: int
    log: Path


def mlx_environment(scratch: Path) -> dict[str, str]:
    """What an MLX process needs to find OpenBLAS: the same for every side of the comparison."""
    from opta_lmx.backends.mlx.environment import worker_environment

    return worker_environment(scratch / "lib").variables


def mlx_lm_server(folder: Path, scratch: Path) -> Command:
    """mlx-lm's own server on an MLX folder, at its default batch sizes."""
    arguments = [sys.executable, "-m", "mlx_lm.server", "--model", str(folder)]
    arguments += ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "WARNING"]
    return Command(
        name="mlx_lm.server",
        model="default_model",
        arguments=arguments,
        ready_path="/health",
        environment=mlx_environment(scratch),
    )


def llama_server(gguf: Path, slots: int, threads: int, context: int) -> Command | None:
    """The `llama-server` on PATH with a GGUF file; None where there is none.

    `context` is the tokens one slot may use.
    """
    program = shutil.which("llama-server")
    if program is None:
        return None
    arguments = [program, "-m", str(gguf), "--host", "127.0.0.1", "--port", "{port}"]
    arguments += ["-np", str(slots), "-t", str(threads), "-c", str(slots * context)]
    return Command("llama-server", "default", arguments, "/health")


def opta_lmx(model: str, home: Path, settings: Mapping[str, str]) -> Command:
    """This server on the store under `home`, one model loaded before it is ready.

    `settings` are `LMX_SECTION__KEY` variables.
    """
    arguments = [sys.executable, "-m", "opta_lmx.cli.main", "serve", "--port", "{port}"]
    return Command(
        name="opta-lmx",
        model=model,
        arguments=[*arguments, "--model", model],
        ready_path="/readyz",
        environment={"LMX_HOME": str(home), **settings},
    )


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Command, scratch: Path, ready_s: float = READY_S) -> Generator[Peer]:
    """Start a server, wait until it is ready, and end it (and its children) afterwards.

    Raises:
        StartError: it ended or was not ready within `ready_s` seconds.
    """
    port = free_port()
    log = scratch / f"{command.name}-{port}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [argument.replace("{port}", str(port)) for argument in command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **_OFFLINE, **command.environment},
            cwd=ROOT,
        )
    try:
        _wait_ready(command, child, f"http://127.0.0.1:{port}{command.ready_path}", ready_s, log)
        target = Target(f"http://127.0.0.1:{port}/v1", command.model)
        yield Peer(command.name, target, child.pid, log)
    finally:
        end(child)


def _wait_ready(
    command: Command, child: subprocess.Popen[bytes], url: str, ready_s: float, log: Path
) -> None:
    deadline = time.monotonic() + ready_s
    while not answers(url, command.key):
        if child.poll() is not None:
            raise StartError(f"{command.name} ended with {child.returncode}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise StartError(f"{command.name} was not ready in {ready_s:.0f} s:\n{_tail(log)}")
        time.sleep(0.1)


def answers(url: str, key: str = "") -> bool:
    """True when a GET of `url`, with that bearer key if any, is answered by 200."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child and whatever it started: first by asking, then by force."""
    family: Sequence[int] = procs.sample(child.pid).pids
    child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(_END_S)
    for pid in family:
        if pid != child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
