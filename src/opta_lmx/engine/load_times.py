"""The times that loads have taken, kept from one run of the server to the next."""

import asyncio
from pathlib import Path

import msgspec

from opta_lmx.engine.kept_file import read_if_sound
from opta_lmx.models.disk import write_atomically
from opta_lmx.scheduling.loading import LoadTimes, LoadWork, sound_times

FILE = "load-times.json"


class LoadBook:
    """Reads the file once, writes it after each load; its loss costs nothing but better guesses.

    Args:
        path: the file; None keeps the times in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self.times = _read(path) or LoadTimes()

    async def loaded(self, work: LoadWork, seconds: float) -> None:
        """Note a load."""
        self.times.record_load(work, seconds)
        await self._save()

    def converted(self, work: LoadWork, seconds: float) -> None:
        """Note a conversion; it is saved with the load that follows."""
        self.times.record_conversion(work, seconds)

    async def _save(self) -> None:
        if self._path is None:
            return
        async with self._writing:
            data = msgspec.json.encode(self.times)
            await asyncio.to_thread(_write, self._path, data)


def _read(path: Path | None) -> LoadTimes | None:
    """What an earlier run noted; None for a file that is absent or not as we write it."""
    times = read_if_sound(path, LoadTimes)
    if times is None:
        return None
    rates = (times.bytes_per_s, times.converted_bytes_per_s)
    return times if sound_times(times.loads, *rates) else None


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError:
        return  # a full or read-only home must not keep a loaded model from serving
