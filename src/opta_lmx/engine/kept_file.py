"""One small file of state, kept from one run of the server to the next."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from opta_lmx.core.telemetry import Telemetry
from opta_lmx.models.disk import sync_folder, write_atomically

_MAX_BYTES = 1 << 20
_MOST_WORDS = 200
_UNREADABLE = (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_State = TypeVar("_State")


def read_if_sound(path: Path | None, kind: type[_State]) -> _State | None:
    """What an earlier run wrote, where its loss costs little; None for anything else."""
    if path is None:
        return None
    try:
        return _read(path, kind)
    except _UNREADABLE:
        return None


def read_kept(path: Path | None, kind: type[_State], telemetry: Telemetry) -> _State | None:
    """What an earlier run wrote; None for a file that is absent or not as we write it.

    The latter is logged, and set aside as `.bad`, since the next write would end it.
    """
    if path is None:
        return None
    try:
        return _read(path, kind)
    except FileNotFoundError:
        return None
    except _UNREADABLE as error:
        telemetry.log("warning", "state not read", file=path.name, reason=str(error)[:_MOST_WORDS])
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f"{path.name}.bad"))
        return None


def _read(path: Path, kind: type[_State]) -> _State:
    with path.open("rb") as file:
        return msgspec.json.decode(file.read(_MAX_BYTES), type=kind)


class KeptFile:
    """Writes the newest state, whole, on a thread; states that were overtaken are left out.

    A disk that fails is logged: it must not keep anybody from being served.

    Args:
        path: the file; None keeps nothing.
        state: what is to be in it now; None: it is not to be there.
        telemetry: where failures are logged.
    """

    def __init__(
        self, path: Path | None, state: Callable[[], object | None], telemetry: Telemetry
    ) -> None:
        self._path = path
        self._state = state
        self._telemetry = telemetry
        self._stale = False
        self._writing: asyncio.Task[None] | None = None

    def save(self) -> None:
        """The state has changed. Call it in an event loop."""
        self._stale = True
        if self._path is not None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(
                self._write(self._path), name="kept file", context=contextvars.Context()
            )

    async def saved(self) -> None:
        """Return when all that changed until now is on the disk, or cannot be brought there."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def _write(self, path: Path) -> None:
        while self._stale:
            self._stale = False
            state = self._state()
            data = None if state is None else msgspec.json.encode(state)
            try:
                await asyncio.to_thread(_replace, path, data)
            except OSError as error:
                reason = error.strerror or str(error)
                self._telemetry.log("warning", "state not kept", file=path.name, reason=reason)


def _replace(path: Path, data: bytes | None) -> None:
    if data is not None:
        write_atomically(path, data)
    elif path.exists():
        path.unlink()
        sync_folder(path.parent)
