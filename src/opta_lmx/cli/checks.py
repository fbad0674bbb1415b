"""What `doctor` looks at, one function a subject. Nothing here changes anything."""

import errno
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from opta_lmx.backends import registry
from opta_lmx.backends.mlx.environment import worker_environment
from opta_lmx.cli import machine
from opta_lmx.cli.session import Session
from opta_lmx.cli.terminal import size
from opta_lmx.cli.trust import own_trust
from opta_lmx.startup import port_holder

State = Literal["ok", "info", "warning", "broken"]

_PROBE_S = 60.0
_HEALTH_S = 2.0
_SCARCE_BYTES = 2 * 10**9
_PACKAGES = {"mlx": ("mlx", "mlx-lm"), "gguf": ("xllamacpp",)}
_PROBES = {"mlx": "import mlx.core as m; print(m.default_device())", "gguf": "import xllamacpp"}


class Check(NamedTuple):
    """One finding: what was looked at, how it is, and a sentence.

    Of what is not as it should be, the sentence also tells what to do next.
    """

    subject: str
    state: State
    detail: str


def with_step(message: str, step: str) -> str:
    """What is wrong and what to do next, in a line; a question in it is a step already."""
    return message if message.endswith("?") else f"{message.rstrip('.')}: {step}"


def hardware() -> Iterator[Check]:
    """Processor, memory and accelerator."""
    yield Check("processor", "info", machine.processor())
    found = machine.memory()
    if found.total:
        text = f"{size(found.total)}, {size(found.available)} available"
        yield Check("memory", "info", text)
    else:
        text = "unknown: say in memory.budget_bytes how much models may take"
        yield Check("memory", "warning", text)
    yield Check("accelerator", "info", machine.accelerator() or "none that MLX can use")


def backends() -> Iterator[Check]:
    """Whether each engine is installed and can be imported; at least one must."""
    usable = 0
    for name in _PACKAGES:
        missing = registry.missing_modules(name)
        if missing:
            hint = f"not installed ({', '.join(missing)}): pip install 'opta-lmx[{name}]'"
            yield Check(f"backend {name}", "info", hint)
            continue
        check = _imported(name)
        usable += check.state != "broken"
        yield check
    if not usable:
        text = "no engine is usable, so no model can run: pip install 'opta-lmx[gguf]'"
        yield Check("backends", "broken", text)


def _imported(name: str) -> Check:
    """Import an engine in a child process, as a worker would."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = worker_environment(Path(scratch) / "lib") if name == "mlx" else None
        extra = environment.variables if environment else {}
        try:
            done = subprocess.run(
                [sys.executable, "-c", _PROBES[name]],
                capture_output=True,
                text=True,
                timeout=_PROBE_S,
                env=os.environ | extra,
                check=False,
            )
        except subprocess.TimeoutExpired:
            text = f"cannot be imported in {_PROBE_S:.0f} s: {_again(name)}"
            return Check(f"backend {name}", "broken", text)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        text = f"cannot be imported ({reason}): {_again(name)}"
        return Check(f"backend {name}", "broken", text)
    parts = [_versions(name), done.stdout.strip()]
    if environment is None:
        return Check(f"backend {name}", "ok", parts[0])
    parts.append(environment.reason or "with OpenBLAS")
    text = ", ".join(filter(None, parts))
    if environment.reason is not None and sys.platform == "linux" and "cpu" in done.stdout:
        return Check(f"backend {name}", "warning", with_step(text, _again(name)))
    return Check(f"backend {name}", "ok", text)


def _again(name: str) -> str:
    return f"pip install --force-reinstall 'opta-lmx[{name}]'"


def _versions(name: str) -> str:
    found: list[str] = []
    for package in _PACKAGES[name]:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} of unknown version")
    return ", ".join(found)


def state_folder(session: Session, config: Path | None) -> Iterator[Check]:
    """Whether state can be written, and that nobody else reads the secrets in it."""
    yield _writable("home", session.home, "LMX_HOME")
    store = session.settings.models.root(session.home)
    yield _writable("model store", store, "models.dir")
    free = shutil.disk_usage(machine.existing_parent(store)).free
    text = f"{size(free)} free for models"
    if free < _SCARCE_BYTES:
        more = "remove one with opta-lmx rm NAME, or set models.dir to a larger disk"
        yield Check("disk", "warning", f"{text}: {more}")
    else:
        yield Check("disk", "ok", text)
    file = config or session.home / "config.toml"
    settings = session.settings
    if file.exists() and (settings.all_keys() or settings.models.hub_token):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077 and _from_file(session):
            text = f"{file} holds secrets and others may read it: chmod 600 {file}"
            yield Check("secrets", "warning", text)


def _from_file(session: Session) -> bool:
    origins = session.loaded.origins
    keys = ("server.api_keys", "access.keys", "models.hub_token")
    return any(origins[key].startswith("file ") for key in keys)


def _writable(subject: str, folder: Path, setting: str) -> Check:
    parent = machine.existing_parent(folder)
    step = f"set {setting} to one that you may write"
    if not parent.is_dir():
        return Check(subject, "broken", f"{parent} is not a folder: {step}")
    if not os.access(parent, os.W_OK | os.X_OK):
        return Check(subject, "broken", f"{parent} cannot be written: {step}")
    return Check(subject, "ok", str(folder) if parent == folder else f"{folder} (to be made)")


def listening(session: Session) -> Iterator[Check]:
    """Whether the port is free, ours already, or somebody else's."""
    server = session.settings.server
    subject = f"port {server.port}"
    try:
        if server.port == 0 or is_free(server.host, server.port):
            yield Check(subject, "ok", f"free on {server.host}")
            return
    except OSError as error:
        text = f"{server.host} cannot be used ({error.strerror or error}): set server.host"
        yield Check(subject, "broken", f"{text} to an address of this machine")
        return
    who = port_holder(server.port) or "another program"
    version = running_version(session.server_url, own_trust(session))
    if version is None:
        yield Check(subject, "broken", f"taken by {who}: stop that, or set server.port")
    else:
        yield Check(subject, "ok", f"Opta LMX {version} is running: {who}")


def is_free(host: str, port: int) -> bool:
    """True if a server could listen there now. Nothing is left behind.

    Raises:
        OSError: the address cannot be used at all.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def running_version(url: str, trust: ssl.SSLContext | None = None) -> str | None:
    """The version of the server of ours that answers there; None where none does."""
    import httpx

    try:
        reply = httpx.get(
            f"{url}/healthz",
            timeout=_HEALTH_S,
            trust_env=False,
            verify=True if trust is None else trust,
        )
        body: object = json.loads(reply.content)
    except (httpx.HTTPError, ValueError):
        return None
    match body:
        case {"status": "ok", "version": str(version)}:
            return version
        case _:
            return None
