"""Names what files hold without reading all of it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_EDGE = 64 * 1024
"""Bytes at a file's beginning and end that are looked at."""


def fingerprint(files: Iterable[Path]) -> str:
    """32 hexadecimal digits of the files' names, sizes, times and edges.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        with file.open("rb") as content:
            digest.update(content.read(_EDGE))
            content.seek(max(0, status.st_size - _EDGE))
            digest.update(content.read(_EDGE))
    return digest.hexdigest()
