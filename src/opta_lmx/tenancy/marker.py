"""A file that says this home has had keys, for when the database cannot tell."""

import os
from pathlib import Path

_NAME = "keys-required"
_TEXT = b"A key has been made here: callers must show one, also while lmx.db cannot be read.\n"


class Marker:
    """Set before the first key is kept, and never taken back.

    Args:
        database: path of the database it stands beside.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(_NAME)

    def is_set(self) -> bool:
        """Whether there were keys; True also where that cannot be found out."""
        try:
            self._path.stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def set(self) -> None:
        """Leave the file, on the disk when this returns. Raises OSError."""
        if self._path.exists():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(file, _TEXT)
            os.fsync(file)
        finally:
            os.close(file)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
