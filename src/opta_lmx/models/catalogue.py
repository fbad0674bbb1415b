"""Finds the models in a store's folder and says what each is; changes nothing."""

from collections.abc import Iterator
from pathlib import Path

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.disk import typed
from opta_lmx.models.manifest import (
    MANIFEST,
    BrokenModelError,
    ModelEntry,
    broken_entry,
    read_entry,
)
from opta_lmx.models.names import valid_name


def not_found(name: str) -> LmxError:
    """The error for a name that is in no store."""
    return LmxError(
        ErrorKind.MODEL_NOT_FOUND, f"The model '{name[:200]}' does not exist.", param="model"
    )


def model_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Names and folders of all that is, or should be, a model; sorted, links included."""
    if not root.exists():
        return
    for top in _folders(root):
        if _is_model(top):
            yield top.name, top
            continue
        for inner in _folders(top):
            yield f"{top.name}/{inner.name}", inner


def groups(root: Path) -> list[Path]:
    """The folders that are no model but may hold some (`org/`), empty ones included."""
    return [top for top in _folders(root) if not _is_model(top)] if root.exists() else []


def describe(name: str, folder: Path) -> ModelEntry:
    """The entry of one folder; whatever is wrong with it becomes its `broken` reason."""
    if not valid_name(name):
        return broken_entry(name, folder, "its name cannot be a model's")
    if folder.is_symlink() or folder.parent.is_symlink():
        return broken_entry(name, folder, "it is a link, which the store does not follow")
    try:
        return read_entry(name, folder)
    except BrokenModelError as error:
        return broken_entry(name, folder, str(error))
    except LmxError as error:
        return broken_entry(name, folder, error.message)
    except OSError as error:
        return broken_entry(name, folder, f"it cannot be read ({error.strerror})")


def entries(root: Path) -> list[ModelEntry]:
    """All models, by name, broken ones included.

    Raises:
        LmxError: UNAVAILABLE `store_unusable`, when the store's own folder cannot be read.
    """
    with typed(root):
        return [describe(name, folder) for name, folder in model_folders(root)]


def entry(root: Path, name: str) -> ModelEntry:
    """The model of that name.

    Raises:
        LmxError: MODEL_NOT_FOUND; CONFLICT `model_broken`.
    """
    with typed(root):
        if not valid_name(name) or not _spelled(root, name):
            raise not_found(name)
        found = describe(name, root / name)
    if found.broken is not None:
        raise LmxError(
            ErrorKind.CONFLICT,
            f"The model '{name}' is damaged: {found.broken}. Delete it and add it again.",
            code="model_broken",
            param="model",
        )
    return found


def clash(root: Path, name: str) -> str | None:
    """Why `name` cannot be taken: the name in its way, alike but for case, or nested."""
    wanted = name.lower()
    for known, _ in model_folders(root):
        other = known.lower()
        if other == wanted or other.startswith(wanted + "/") or wanted.startswith(other + "/"):
            return known
    return next(
        (
            top.name
            for top in (_folders(root) if root.exists() else [])
            if top.name.lower() == wanted.partition("/")[0] and top.name != name.partition("/")[0]
        ),
        None,
    )


def _folders(parent: Path) -> list[Path]:
    """Visible subfolders and links to folders, sorted."""
    found = [path for path in parent.iterdir() if not path.name.startswith(".") and path.is_dir()]
    return sorted(found)


def _is_model(folder: Path) -> bool:
    """False for a folder that only groups models (`org/`); what cannot be read counts as one."""
    try:
        return (
            folder.is_symlink()
            or (folder / MANIFEST).exists()
            or any(path.is_file() and not path.name.startswith(".") for path in folder.iterdir())
        )
    except OSError:
        return True


def _spelled(root: Path, name: str) -> bool:
    """Whether the folders are there in exactly this spelling: file systems may ignore case."""
    parent = root
    for part in name.split("/"):
        if not parent.is_dir() or all(path.name != part for path in parent.iterdir()):
            return False
        parent = parent / part
    return _is_model(parent) if parent.parent == root else not _is_model(parent.parent)
