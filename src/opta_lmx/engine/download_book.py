"""Which downloads are under way, kept so that the next run of the server knows of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import NullTelemetry, Telemetry
from opta_lmx.engine.kept_file import KeptFile, read_if_sound
from opta_lmx.models.offer import Pin

FILE = "downloads.json"


class Noted(msgspec.Struct, frozen=True):
    """A download that has not ended; `total_bytes` is 0 while unknown.

    `pin` is what it is held to, so that the next run fetches nothing else either.
    """

    id: str
    model: str
    started_ms: int
    total_bytes: int = 0
    pin: Pin | None = None


def _nothing(_: str) -> int:
    return 0


class DownloadBook:
    """A small file, replaced on a thread at every change; without one nothing is kept.

    It outlives a kill of the server, which is what it is for: whoever is told of a change waits
    for `saved` first.

    Args:
        path: the file; None for none.
        held: what an unfinished download of a model has left on the disk, in bytes.
        telemetry: where a disk that takes nothing is told of.
    """

    def __init__(
        self,
        path: Path | None = None,
        held: Callable[[str], int] = _nothing,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._path = path
        self._held = held
        self._newest: list[Noted] = []
        self._file = KeptFile(path, lambda: self._newest, telemetry or NullTelemetry())

    def read(self) -> list[Noted]:
        """What was under way; nothing from a file that is absent or not as we write it."""
        return read_if_sound(self._path, list[Noted]) or []

    def held_bytes(self, model: str) -> int:
        """What is on the disk of a download that was cut short."""
        try:
            return self._held(model)
        except LmxError:
            return 0

    def write(self, downloads: Sequence[Noted]) -> None:
        """Replace what is kept, soon. A disk that takes nothing keeps no download from running."""
        self._newest = list(downloads)
        self._file.save()

    async def saved(self) -> None:
        """Return when all that was written until now is on the disk, or cannot be brought there."""
        await self._file.saved()
