"""Downloads one file so that a cut or a kill costs only the bytes not yet received."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.hub_client import HubClient, unreachable
from opta_lmx.models.hub_files import HubFile
from opta_lmx.models.progress import check_cancelled

_CHUNK_BYTES = 1 << 20
_PART = ".part"
_LONGEST_PAUSE_S = 8.0


class Transfer:
    """Fetches files of one repository at one commit into a folder.

    Args:
        client: the hub.
        repo: `org/name`.
        commit: files at a commit never change, so bytes of two sessions fit together.
        attempts: connections tried without a single new byte before giving up.
    """

    def __init__(self, client: HubClient, repo: str, commit: str, attempts: int) -> None:
        self._client = client
        self._repo = repo
        self._commit = commit
        self._attempts = attempts

    def fetch(
        self,
        file: HubFile,
        target: Path,
        advance: Callable[[int], None],
        cancel: threading.Event,
    ) -> str:
        """Bring `file` to `target`, which appears only once its checksum is right.

        `advance` is told the bytes of each piece, found on disk or received; a negative
        number when bytes turn out useless.

        Returns:
            The SHA-256 in hex.

        Raises:
            LmxError: UPSTREAM_FAILED `checksum_mismatch` (the bytes are deleted) or
                `hub_unreachable` (they are kept); CONFLICT `cancelled`; those of `HubClient`.
        """
        if target.exists():
            return self._take_over(file, target, advance, cancel)
        part = target.with_name(target.name + _PART)
        sums = _Sums(file)
        with part.open("a+b") as out:
            sums.read(out, advance, cancel)
            failures = 0
            while sums.done < file.size:
                check_cancelled(cancel)
                before = sums.done
                try:
                    self._receive(file, out, sums, advance, cancel)
                except LmxError as error:
                    check_cancelled(cancel)
                    failures = 1 if sums.done > before else failures + 1
                    if error.code != "hub_unreachable" or failures >= self._attempts:
                        raise
                    cancel.wait(min(2.0 ** (failures - 1), _LONGEST_PAUSE_S))
        self._check(file, sums, part)
        part.rename(target)
        return sums.sha256

    def _take_over(
        self,
        file: HubFile,
        target: Path,
        advance: Callable[[int], None],
        cancel: threading.Event,
    ) -> str:
        """A file finished in an earlier run: check it again, the disk may have lied."""
        sums = _Sums(file)
        with target.open("r+b") as found:
            sums.read(found, advance, cancel)
        self._check(file, sums, target)
        return sums.sha256

    def _receive(
        self,
        file: HubFile,
        out: BinaryIO,
        sums: "_Sums",
        advance: Callable[[int], None],
        cancel: threading.Event,
    ) -> None:
        """One connection: append what comes until the file or the connection ends."""
        with self._client.open(self._repo, self._commit, file.path, sums.done) as body:
            if body.start != sums.done:
                advance(-sums.done)
                sums.restart(out)
            if body.start not in {0, sums.done}:
                raise unreachable("it does not resume where it was asked to")
            for piece in body.pieces:
                check_cancelled(cancel)
                if sums.done + len(piece) > file.size:
                    sums.restart(out)
                    raise mismatch(file.path)
                out.write(piece)
                sums.add(piece)
                advance(len(piece))
        if sums.done < file.size:
            raise unreachable("the connection ended early")

    def _check(self, file: HubFile, sums: "_Sums", path: Path) -> None:
        if not sums.right():
            path.unlink()
            raise mismatch(file.path)


def mismatch(path: str) -> LmxError:
    """The error for content that is not what the hub announced."""
    return LmxError(
        ErrorKind.UPSTREAM_FAILED,
        f"'{path[:120]}' arrived with a wrong checksum or length; its bytes were deleted.",
        code="checksum_mismatch",
    )


class _Sums:
    """Checksums of the bytes so far: SHA-256 for the record, git's SHA-1 if the hub has that."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self.done = 0
        self._sha256 = hashlib.sha256()
        header = b"blob %d\0" % self._file.size
        self._blob = hashlib.sha1(header, usedforsecurity=False)

    def add(self, piece: bytes) -> None:
        self.done += len(piece)
        self._sha256.update(piece)
        if self._file.sha256 is None:
            self._blob.update(piece)

    def read(
        self, found: BinaryIO, advance: Callable[[int], None], cancel: threading.Event
    ) -> None:
        """Take up the bytes already on disk; too many are worth none."""
        found.seek(0)
        while piece := found.read(_CHUNK_BYTES):
            check_cancelled(cancel)
            self.add(piece)
            advance(len(piece))
        if self.done > self._file.size:
            advance(-self.done)
            self.restart(found)

    def restart(self, out: BinaryIO) -> None:
        """Forget everything, the bytes on disk included."""
        out.seek(0)
        out.truncate()
        self._begin()

    def right(self) -> bool:
        """Whether length and checksum are those the hub announced."""
        if self.done != self._file.size:
            return False
        if self._file.sha256 is not None:
            return self.sha256 == self._file.sha256
        return self._blob.hexdigest() == self._file.blob_sha1

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()
