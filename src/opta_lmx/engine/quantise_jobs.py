"""One quantising job as clients and the disk see it; its record outlives the server."""

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any, Literal

import msgspec

from opta_lmx.backends.quantize.rules import Scheme, scheme
from opta_lmx.core.errors import LmxError
from opta_lmx.models.disk import write_atomically

State = Literal["queued", "running", "cancelling", "completed", "failed", "cancelled"]
ENDED = frozenset({"completed", "failed", "cancelled"})
INTERRUPTED = "interrupted_by_restart"
_MAX_BYTES = 1 << 16
_LONGEST_MESSAGE = 2000
"""Characters of a failure; what names every layer of a model says no more than its beginning."""


class Wish(msgspec.Struct, frozen=True):
    """What a client asks for; None is for us to choose."""

    model: str
    name: str | None = None
    mode: str | None = None
    bits: int | None = None
    group_size: int | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a job made nothing."""

    code: str
    message: str
    param: str | None = None


class Made(msgspec.Struct, frozen=True):
    """The stored model; `kept_layers` could not be packed, and are as they were.

    Layers are None where the server ended between the making and the telling.
    """

    size_bytes: int
    bits_per_weight: float
    quantised_layers: int | None = None
    kept_layers: int | None = None


class Record(msgspec.Struct):
    """What is kept of a job on disk; times are UTC in ms since the epoch."""

    job_id: str
    model: str
    name: str
    mode: str
    bits: int
    group_size: int
    created_ms: int
    status: State = "queued"
    started_ms: int | None = None
    ended_ms: int | None = None
    result: Made | None = None
    error: Failure | None = None


class Step(msgspec.Struct, frozen=True):
    """How far a job has got: bytes of the phase it is in."""

    phase: str = ""
    done: int = 0
    total: int = 0
    layer: str = ""


class Job:
    """One job, and whoever watches it."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.step = Step()
        self.changed = asyncio.Event()

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.job_id

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.record.status in ENDED

    @property
    def scheme(self) -> Scheme:
        """How weights are packed."""
        return scheme(self.record.mode, self.record.bits, self.record.group_size)

    def report(self) -> dict[str, Any]:
        """What clients are told."""
        step = self.step
        return msgspec.to_builtins(self.record) | {
            "phase": step.phase or None,
            "layer": step.layer or None,
            "done_bytes": step.done,
            "total_bytes": step.total,
        }

    def tell(self) -> None:
        """Wake every watcher."""
        self.changed.set()
        self.changed = asyncio.Event()


class Records:
    """A folder of records, one JSON file a job; blocks on the disk.

    Args:
        folder: where they lie; None keeps none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def load(self) -> list[Record]:
        """All records, oldest first; what is none is deleted."""
        found: list[Record] = []
        for path in self._folder.glob("*.json") if self._folder else ():
            try:
                with path.open("rb") as file:
                    found.append(msgspec.json.decode(file.read(_MAX_BYTES), type=Record))
            except OSError:
                continue  # it may be readable another time
            except (msgspec.DecodeError, UnicodeDecodeError):
                with contextlib.suppress(OSError):
                    path.unlink()
        return sorted(found, key=lambda record: record.created_ms)

    def write(self, record: Record) -> None:
        """Keep the record as it now is. Raises OSError."""
        if self._folder is None:
            return
        with self._lock:  # so that the last to write has the newest state
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(self._folder, record.job_id), msgspec.json.encode(record))

    def forget(self, job_id: str) -> None:
        """Delete a record, if it is there."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._path(self._folder, job_id).unlink()

    @staticmethod
    def _path(folder: Path, job_id: str) -> Path:
        return folder / f"{job_id}.json"


def failure_of(error: LmxError) -> Failure:
    """An error as a job tells it, in a length that its record takes."""
    message = error.message
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}…"
    return Failure(error.code, message, error.param)
