"""The record of one stored model, `lmx-model.json` in its folder, and what is made of it."""

from pathlib import Path

import msgspec

from opta_lmx.models.description import Format, ModelInfo, ModelKind
from opta_lmx.models.disk import write_atomically
from opta_lmx.models.info import read_info

MANIFEST = "lmx-model.json"
VERSION = 1
"""Raised when `ModelInfo` changes its meaning: older records are then read anew."""
CONVERSION = "mlx"
"""Folder, beside a GGUF file, of the same model converted for MLX."""
_MAX_BYTES = 16 << 20


class FileRecord(msgspec.Struct, frozen=True):
    """One file of the model, directly in its folder."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What was registered. `main` is the GGUF file to open, "" for a folder.

    `source` says where it came from: `hub:org/name@commit`, `pypi:package==version`,
    `file:path`. `licence` is a name, `notice` a text that must be shown.
    """

    version: int
    name: str
    format: Format
    main: str
    files: tuple[FileRecord, ...]
    source: str
    created_ms: int
    info: msgspec.Raw
    licence: str = ""
    notice: str = ""


class ModelEntry(msgspec.Struct, frozen=True):
    """One model of the store, or, when `broken` gives a reason, what is left of one.

    `path` is the GGUF file or the folder to load.
    """

    name: str
    format: Format
    path: Path
    size_bytes: int
    source: str
    info: ModelInfo
    created_ms: int = 0
    licence: str = ""
    notice: str = ""
    converted: bool = False
    broken: str | None = None

    @property
    def kind(self) -> ModelKind:
        """What the model is for."""
        return self.info.kind


class BrokenModelError(Exception):
    """A stored model cannot be used; the message is the reason, for a person."""


_UNKNOWN = ModelInfo("gguf", "", 0, "", 0, 0, 0, 0, 0)


def broken_entry(name: str, folder: Path, reason: str) -> ModelEntry:
    """An entry for something in the store that cannot be used."""
    return ModelEntry(name, "gguf", folder, 0, "", _UNKNOWN, broken=reason)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put the record into `folder` in one step."""
    write_atomically(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


def read_entry(name: str, folder: Path) -> ModelEntry:
    """The entry of a model folder: the record, checked against the files by name and size.

    Raises:
        BrokenModelError: the record is unreadable, or does not fit the files.
        LmxError: the files are no longer valid (only read again for records of older versions).
        OSError: the folder cannot be read.
    """
    manifest = _read(folder)
    if manifest.name != name:
        raise BrokenModelError(f"its record is that of '{manifest.name}'")
    _check_files(folder, manifest)
    path = folder / manifest.main if manifest.main else folder
    return ModelEntry(
        name=name,
        format=manifest.format,
        path=path,
        size_bytes=sum(record.size for record in manifest.files),
        source=manifest.source,
        info=_info(manifest, path),
        created_ms=manifest.created_ms,
        licence=manifest.licence,
        notice=manifest.notice,
        converted=(folder / CONVERSION / "config.json").is_file(),
    )


def _read(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise BrokenModelError(f"it has no {MANIFEST}; add models with the add command")
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    try:
        return msgspec.json.decode(data[:_MAX_BYTES], type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenModelError(f"its {MANIFEST} is damaged") from error


def _check_files(folder: Path, manifest: Manifest) -> None:
    names = {record.name for record in manifest.files}
    if manifest.main and manifest.main not in names:
        raise BrokenModelError(f"its {MANIFEST} names a file it does not list")
    for record in manifest.files:
        path = folder / record.name
        if "/" in record.name or "\\" in record.name or record.name.startswith("."):
            raise BrokenModelError(f"its {MANIFEST} lists a file outside the folder")
        if path.is_symlink() or not path.is_file():
            raise BrokenModelError(f"its file {record.name} is missing")
        if path.stat().st_size != record.size:
            raise BrokenModelError(f"its file {record.name} has another size than recorded")


def _info(manifest: Manifest, path: Path) -> ModelInfo:
    if manifest.version != VERSION:
        return read_info(path)
    try:
        return msgspec.json.decode(manifest.info, type=ModelInfo)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenModelError(f"its {MANIFEST} is damaged") from error
