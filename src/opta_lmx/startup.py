"""What must hold before the server starts: one server per home, a port of its own, clean rooms."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Self

from opta_lmx.config.profiles import check, missing
from opta_lmx.config.settings import Settings
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.planner import runtime_dir
from opta_lmx.store.database import Database
from opta_lmx.tenancy import key_rows
from opta_lmx.tenancy.keyring import Keyring

_LOCK_NAME = "serve.lock"


def _state_error(path: Path, reason: str) -> LmxError:
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"The state folder {path} cannot be used: {reason}.",
        code="bad_state",
    )


class HomeLock:
    """Holds the home for one server; the kernel frees it when the process ends, however it ends."""

    def __init__(self, home: Path) -> None:
        self._home = home
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._file = (home / _LOCK_NAME).open("a+")
        except OSError as error:
            raise _state_error(home, error.strerror or str(error)) from None

    def acquire(self, address: str) -> None:
        """Take the lock and write who we are. Raises CONFLICT naming the holder."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LmxError(
                ErrorKind.CONFLICT,
                f"The home {self._home} is in use by another server ({self._holder()}).",
                code="home_in_use",
            ) from None
        self.note(address)

    def note(self, address: str) -> None:
        """Write who holds the lock and where it listens."""
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": os.getpid(), "address": address}))
        self._file.flush()

    def _holder(self) -> str:
        try:
            self._file.seek(0)
            holder = json.load(self._file)
            return f"pid {int(holder['pid'])}, {holder['address']}"
        except (ValueError, KeyError, TypeError):
            return "pid unknown"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


@contextlib.contextmanager
def clean_rooms(home: Path) -> Generator[None]:
    """A clean runtime folder for the block; one outside the home goes with it."""
    folder = clean_runtime(home)
    try:
        yield
    finally:
        if not folder.is_relative_to(home):
            shutil.rmtree(folder, ignore_errors=True)


def clean_runtime(home: Path) -> Path:
    """Remove sockets and links a killed server left behind; their folder.

    The home's lock must be held.
    """
    try:
        folder = runtime_dir(home)
        for item in folder.iterdir():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
        (home / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise _state_error(home, error.strerror or str(error)) from None
    return folder


def check_profile(settings: Settings, home: Path) -> None:
    """Refuse to start while the security profile in force is not met.

    The home's lock must be held, and no loop run.

    Raises:
        LmxError: INVALID_REQUEST `keys_required` or `profile_not_met`, with all that is missing.
    """
    if missing(settings, stored_keys=0):
        check(settings, _stored_keys(home / "lmx.db"))


def _stored_keys(path: Path) -> int:
    """How many keys of a database open the door now; 0 where it cannot be read."""
    if not path.exists():
        return 0
    clock = SystemClock()
    database = Database(path, (key_rows.SCHEMA,), clock, NullTelemetry())
    try:
        return Keyring((), database, clock, required=True).stored
    finally:
        asyncio.run(database.close())


def address_text(host: str, port: int) -> str:
    """`host:port` as it stands in a URL."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def _not_ours(host: str) -> LmxError:
    return LmxError(
        ErrorKind.INVALID_REQUEST,
        f"The host '{host}' is not an address of this machine.",
        code="invalid_config",
        param="server.host",
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        LmxError: CONFLICT `port_in_use` naming who holds the port; INVALID_REQUEST for a host that
            is not this machine's; UNAVAILABLE `port_unusable` where the system refuses.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, ValueError):
        # ValueError: no name at all, among them UnicodeError for labels too long or empty.
        raise _not_ours(host) from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    listener.setblocking(False)
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> LmxError:
    if error.errno == errno.EADDRNOTAVAIL:
        return _not_ours(host)
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port) or "another program"
        return LmxError(
            ErrorKind.CONFLICT,
            f"Port {port} on {host} is in use; held by {holder}.",
            code="port_in_use",
            param="server.port",
        )
    reason = "permission denied" if error.errno == errno.EACCES else error.strerror
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"Port {port} on {host} cannot be used: {reason}.",
        code="port_unusable",
        param="server.port",
    )


def port_holder(port: int) -> str | None:
    """Who listens on a local TCP port, as `pid N (command)`; None when nobody or unknown."""
    pid = _listening_pid_linux(port) if sys.platform == "linux" else _listening_pid_lsof(port)
    if pid is None:
        return None
    return f"pid {pid} ({_command_of(pid)})"


def _listening_pid_linux(port: int) -> int | None:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        if inodes & _open_files(process / "fd"):
            return int(process.name)
    return None


def _open_files(folder: Path) -> set[str]:
    """What a process has open; files that close meanwhile, and processes not ours, are skipped."""
    links: set[str] = set()
    try:
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):
                links.add(str(entry.readlink()))
    except OSError:
        return links
    return links


def _listening_pid_lsof(port: int) -> int | None:
    try:
        found = subprocess.run(
            ["lsof", "-nP", "-t", f"-iTCP:{port}", "-sTCP:LISTEN"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    first = found.stdout.split()[:1]
    return int(first[0]) if first else None


def _command_of(pid: int) -> str:
    try:
        shown = subprocess.run(
            ["ps", "-o", "comm=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    except OSError:
        shown = ""
    if not shown and sys.platform == "linux":
        try:
            shown = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            shown = ""
    return shown or "command unknown"
