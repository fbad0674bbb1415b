"""Starting and ending one worker process."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from opta_lmx.backends.frames import ToFront
from opta_lmx.engine.link import WorkerLink
from opta_lmx.engine.settle import settle

_KILL_WAIT_S = 5.0
_DEAF = ("/bin/sh", "-c", 'trap "" INT TERM; exec "$@"', "worker")
"""Runs what follows so that it ignores what a terminal or a service manager tells the whole group.

What is ignored stays so in the program: a worker cannot see to that itself before Python is up and
its modules are there, and a signal meanwhile would look like a crash.
"""


class WorkerProcess:
    """A child running `opta_lmx.backends.worker`, joined to us by a socket pair."""

    def __init__(self, process: asyncio.subprocess.Process, link: WorkerLink) -> None:
        self._process = process
        self.link = link

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status, negative for a signal, None while it runs."""
        return self._process.returncode

    async def kill(self) -> None:
        """End the process now and reap it; memory has returned when this returns."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self.link.close()
        # Not `asyncio.wait_for`: before Python 3.12 it can lose a cancellation.
        async with asyncio.timeout(_KILL_WAIT_S):
            await self._process.wait()


def resident_bytes(pid: int) -> int | None:
    """Memory a process has resident, where the kernel tells (Linux); else None."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


async def start_worker(
    *,
    environment: Mapping[str, str],
    log_file: Path,
    on_frame: Callable[[ToFront], None],
    on_lost: Callable[[], None],
) -> WorkerProcess:
    """Start a worker. Its standard output and error go to `log_file`.

    The file of the worker before it is kept once, with `.1` at its name's end.

    Args:
        environment: variables added to ours.
        log_file: where native libraries may print.
        on_frame: called for every frame it sends.
        on_lost: called once when its socket ends.
    """
    ours, theirs = socket.socketpair()
    link = WorkerLink(on_frame, on_lost)
    loop = asyncio.get_running_loop()
    try:
        # Settled, since nobody would close the socket of a connection that is made by half.
        await settle(loop.create_connection(lambda: link, sock=ours))
        process = await _spawn(theirs, environment, log_file)
    except BaseException:
        link.close()
        raise
    finally:
        theirs.close()
    return WorkerProcess(process, link)


async def _spawn(
    theirs: socket.socket, environment: Mapping[str, str], log_file: Path
) -> asyncio.subprocess.Process:
    with _fresh_log(log_file) as log:
        return await asyncio.create_subprocess_exec(
            *_DEAF,
            sys.executable,
            "-m",
            "opta_lmx.backends.worker",
            "--fd",
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
        )


def _fresh_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_name(f"{path.name}.1"))
    return path.open("wb")
