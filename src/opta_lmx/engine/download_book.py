"""Which downloads are under way, kept so that the next run of the server knows of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.engine.kept_file import read_if_sound

FILE = "downloads.json"


class Noted(msgspec.Struct, frozen=True):
    """A download that has not ended; `total_bytes` is 0 while unknown."""

    id: str
    model: str
    started_ms: int
    total_bytes: int = 0


def _nothing(_: str) -> int:
    return 0


class DownloadBook:
    """A small file, replaced at every change; without one nothing is kept.

    It outlives a kill of the server, which is what it is for. A crash of the whole machine may
    cost the last change: then a download is asked for once more, and goes on all the same.

    Args:
        path: the file; None for none.
        held: what an unfinished download of a model has left on the disk, in bytes.
    """

    def __init__(self, path: Path | None = None, held: Callable[[str], int] = _nothing) -> None:
        self._path = path
        self._held = held

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
        """Replace what is kept. A disk that takes nothing must not keep a download from running."""
        if self._path is None:
            return
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            draft.write_bytes(msgspec.json.encode(downloads))
            draft.replace(self._path)
        except OSError:
            return
