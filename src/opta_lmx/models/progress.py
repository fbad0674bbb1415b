"""How far a pull or an import has got, and the way to stop one."""

import threading
from collections.abc import Callable
from typing import Literal

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError

State = Literal["resolving", "downloading", "verifying", "done"]


class Progress(msgspec.Struct, frozen=True):
    """One report: bytes of the whole pull, not of one file; `total_bytes` 0 means unknown yet.

    `file` is the file now in work ("" between files); `message` is a sentence for a person,
    among them licence notices that must be shown.
    """

    name: str
    file: str
    done_bytes: int
    total_bytes: int
    state: State
    message: str = ""


ProgressCallback = Callable[[Progress], None]
"""Called on the thread that does the work; must be quick and must not raise."""


def ignore(_: Progress) -> None:
    """A callback for callers who watch nothing."""


def check_cancelled(cancel: threading.Event | None) -> None:
    """Raise LmxError(CONFLICT, code `cancelled`) when the caller has asked to stop."""
    if cancel is not None and cancel.is_set():
        raise LmxError(ErrorKind.CONFLICT, "The operation was cancelled.", code="cancelled")
