"""What slots hold, in files: llama.cpp writes and reads them, and a note beside each vouches.

llama.cpp takes a file with a wrong bit for a good one. So a file counts only with its note, which
is written last: it holds the digest of the whole file, the token ids, the tenant, and what model,
engine and settings they are of. A crash leaves a file without a note, which is cleared away.
"""

import fcntl
import hashlib
import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.backends.gguf.completion import EngineAnswerError
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.gguf.slot import Held
from opta_lmx.backends.statefile import (
    StateFileError,
    StateHead,
    hash_ids,
    read_head,
    read_state,
    write_state,
)

_NOTE, _DATA, _DRAFT = ".note", ".slot", ".part"
_PIECE = 4 * 1024 * 1024
_FAILURES = (OSError, HTTPException, EngineAnswerError)


class _Vouched(msgspec.Struct, frozen=True):
    """What a note says of the file beside it."""

    digest: str
    bytes: int
    tenant: str
    adapter: str = ""


class SlotFile(msgspec.Struct, frozen=True):
    """A file that can be restored; `path` is its note's."""

    path: Path
    held: Held
    digest: str
    bytes: int

    @property
    def data(self) -> Path:
        """llama.cpp's file."""
        return self.path.with_suffix(_DATA)


class SlotFiles:
    """The files of one model's slots.

    Args:
        socket: llama.cpp's.
        folder: where llama.cpp was told to keep them.
        identity: the model, engine and settings; a file of another is not used.
        lasting: whether files are to outlive this process.
        drafts: a draft model runs beside. Its part of a slot is in no file, and must not stay
            behind as that of other tokens; its guesses then follow from what comes after.
    """

    def __init__(
        self, socket: str, folder: Path, identity: str, *, lasting: bool, drafts: bool = False
    ) -> None:
        self.lasting = lasting
        self._drafts = drafts
        self._socket = socket
        self._folder = folder
        self._identity = identity

    def erase(self, number: int) -> bool:
        """Empty an idle slot."""
        return self._act(number, "erase") is not None

    def copy(self, source: int, target: int) -> bool:
        """Let one idle slot hold what another holds; False leaves the target empty or as it was."""
        name = f"copy-{target}{_DRAFT}"
        try:
            saved = self._act(source, "save", name)
            return saved is not None and self._fill(target, name) is not None
        finally:
            _remove(self._folder / name)

    def park(self, number: int, aside: int) -> bool:
        """Put aside what an idle slot holds; False where nothing was written."""
        saved = self._act(number, "save", _aside(aside))
        # llama.cpp does not call it an error when it cannot write.
        return saved is not None and saved.get("n_written", 0) > 0

    def unpark(self, aside: int, number: int) -> bool:
        """Bring back to an idle slot what was put aside; False where that is not possible."""
        return self._fill(number, _aside(aside)) is not None

    def forget(self, aside: int) -> None:
        """Delete what was put aside."""
        _remove(self._folder / _aside(aside))

    def draft(self, number: int, held: Held) -> Path | None:
        """Write what a slot holds, not to be used yet; None when it does not hold that."""
        path = self._folder / f"slot-{number}{_DRAFT}"
        saved = self._act(number, "save", path.name)
        if saved is not None and saved.get("n_saved", 0) >= len(held.tokens):
            return path
        _remove(path)
        return None

    def commit(self, draft: Path, held: Held) -> SlotFile | None:
        """Make a draft last; None when the disk does not have it."""
        try:
            digest, size = _digest(draft, sync=True)
            file = SlotFile(self._folder / f"{digest[:32]}{_NOTE}", held, digest, size)
            draft.replace(file.data)
            self._vouch(file)
        except OSError:
            _remove(draft)
            return None
        return file

    def found(self) -> list[SlotFile]:
        """Files with a note that fits, oldest first. The rest is cleared away."""
        files = [file for path in self._folder.glob(f"*{_NOTE}") if (file := self._read(path))]
        keep = {path for file in files for path in (file.path, file.data)}
        for path in self._folder.iterdir():
            if path not in keep and path.suffix in (_NOTE, _DATA, _DRAFT):
                _remove(path)
        return sorted(files, key=lambda file: file.path.stat().st_mtime_ns)

    def restore(self, number: int, file: SlotFile) -> bool:
        """Fill an idle slot from a file; one that is not whole is removed."""
        try:
            whole = _digest(file.data) == (file.digest, file.bytes)
        except OSError:
            whole = False
        answer = self._fill(number, file.data.name) if whole else None
        if answer is not None and answer.get("n_restored", 0) >= len(file.held.tokens):
            return True
        self.remove(file)
        return False

    def remove(self, file: SlotFile) -> None:
        """Delete a file, its note first."""
        _remove(file.path)
        _remove(file.data)

    def _vouch(self, file: SlotFile) -> None:
        ids = array("i", file.held.tokens).tobytes()
        note = _Vouched(file.digest, file.bytes, file.held.tenant, file.held.adapter)
        head = StateHead(
            tokens=len(file.held.tokens),
            ids_hash=hash_ids(ids),
            engine=self._identity,
            shape="slot",
            structure=msgspec.to_builtins(note),
            arrays=(),
        )
        write_state(file.path, head, ids, ())

    def _read(self, path: Path) -> SlotFile | None:
        head = read_head(path)
        if head is None or head.engine != self._identity or head.shape != "slot":
            return None
        try:
            state = read_state(path)
            note = msgspec.convert(state.head.structure, _Vouched)
        except (StateFileError, msgspec.ValidationError):
            return None
        tokens = array("i")
        tokens.frombytes(state.ids)
        held = Held(tuple(tokens), note.tenant, note.adapter)
        file = SlotFile(path, held, note.digest, note.bytes)
        return file if file.data.is_file() else None

    def _fill(self, number: int, name: str) -> dict[str, Any] | None:
        if self._drafts and not self.erase(number):
            return None
        return self._act(number, "restore", name)

    def _act(self, number: int, action: str, name: str | None = None) -> dict[str, Any] | None:
        try:
            body = {} if name is None else {"filename": name}
            return call(self._socket, f"/slots/{number}?action={action}", body)
        except _FAILURES:
            return None


def model_identity(model: Path, settings: str) -> str:
    """Name a model file and what it runs with, so that another one's states are never used."""
    facts = model.stat()
    digest = hashlib.blake2b(f"{facts.st_size} {facts.st_mtime_ns} {settings}".encode())
    with model.open("rb") as file:
        digest.update(file.read(1 << 20))
    return digest.hexdigest()[:64]


def claim(folder: Path) -> bool:
    """Take a folder for this process and its life; False when another has it or it is unusable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    return True


def _aside(number: int) -> str:
    return f"aside-{number}{_DRAFT}"


def _digest(path: Path, *, sync: bool = False) -> tuple[str, int]:
    """A file's digest and bytes; `sync` brings it to the disk first."""
    digest, size = hashlib.blake2b(digest_size=32), 0
    with path.open("rb") as file:
        if sync:
            os.fchmod(file.fileno(), 0o600)
            os.fsync(file.fileno())
        for piece in _pieces(file.fileno()):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _pieces(descriptor: int) -> Iterator[bytes]:
    while piece := os.read(descriptor, _PIECE):
        yield piece


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
