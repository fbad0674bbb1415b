"""A person at a pseudo-terminal, and a look at which processes they leave behind."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PATIENCE_S = 60.0
PROGRAM = ("-m", "opta_lmx.cli.main")


class Terminal:
    """A person at `opta-lmx chat`."""

    def __init__(self, *arguments: str, program: Sequence[str] = PROGRAM) -> None:
        self._screen, inner = pty.openpty()
        command = [sys.executable, *program, "chat", *arguments]
        # A session of its own with this terminal in control, so that Ctrl-C becomes a signal; it
        # is heard even where the tests run in the background, which means deaf to it.
        control = (
            "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "signal.signal(signal.SIGINT, signal.SIG_DFL); "
        )
        starter = [sys.executable, "-c", control + "os.execv(sys.argv[1], sys.argv[1:])"]
        self.process = subprocess.Popen(
            [*starter, *command],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb"},
        )
        os.close(inner)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def wait_for(self, text: str) -> str:
        """Read until `text` appears; returns what came before it, and forgets both."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            left = deadline - time.monotonic()
            ready = select.select([self._screen], [], [], max(0.0, left))[0]
            assert ready, f"{text!r} did not appear after {self.shown!r}"
            self.shown += os.read(self._screen, 65536).decode()
        before, _, self.shown = self.shown.partition(text)
        return before

    def interrupt_until_gone(self) -> int:
        """Press Ctrl-C, as often as it takes; returns the exit status.

        Once is not always enough: Python's readline waits on, if the signal comes between the
        prompt's appearing and its wait for a key.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        raise AssertionError("Ctrl-C does not end it")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._screen)


def processes_of(home: Path) -> list[int]:
    """Those that live and were given this home, as the system tells; none where it does not."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"LMX_HOME={home}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
