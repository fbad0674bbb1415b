"""Which LoRA adapters a model has, and how it is loaded with them."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from opta_lmx.backends.frames import Load
from opta_lmx.backends.protocol import ADAPTER_CHANGED, ADAPTER_REFUSED
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.models.adapters import AdapterInfo, adapter_files, format_of, read_adapter, version_of
from opta_lmx.models.description import Format, ModelInfo
from opta_lmx.models.matching import MAX_LISTED, Known, Reference
from opta_lmx.models.store import ModelEntry

_MAX_READ = 1_000
_Stamp = tuple[tuple[int, ...], ...]


class Adapted(msgspec.Struct, frozen=True):
    """A model with its adapters: how to load them, what they are together, their versions.

    `refuse` is told why it could not be loaded: an adapter that does not fit is refused at once
    from then on, as long as neither the model nor any of its adapters is another.
    """

    load: Load
    info: ModelInfo
    versions: Mapping[str, str] = {}
    refuse: Callable[[LmxError], None] | None = None

    async def unchanged(self) -> None:
        """Raise UNAVAILABLE `adapter_changed` if a file is another than when it was checked.

        What was processed with one version must not be continued with another.
        """
        if not self.versions:
            return
        try:
            await asyncio.to_thread(self._compare)
        except LmxError as error:
            if self.refuse is not None:
                self.refuse(error)
            raise

    def _compare(self) -> None:
        for name, path in self.load.adapters.items():
            place = Path(path)
            if version_of(place, format_of(place)) != self.versions[name]:
                raise adapter_changed(self.load.model, name)


class Adapters:
    """The configured adapters.

    Args:
        configured: paths by the model's name, with or without `:BACKEND`, and the adapter's.
        home: relative paths start here.
    """

    def __init__(self, configured: Mapping[str, Mapping[str, Path]], home: Path) -> None:
        self._configured = configured
        self._home = home
        self._read: dict[tuple[Path, ModelInfo], tuple[_Stamp, AdapterInfo]] = {}
        self._refused: dict[tuple[str, str], tuple[object, LmxError]] = {}

    def of(self, model: str, backend: str) -> dict[str, Path]:
        """Paths of the adapters that a model of the store has on a backend, by name."""
        shared = self._configured.get(model, {})
        fitting = {name: path for name, path in shared.items() if format_of(path) == backend}
        both = {**fitting, **self._configured.get(f"{model}:{backend}", {})}
        return {name: self._home / _expanded(both[name]) for name in sorted(both)}

    def strays(self, known: Sequence[Known]) -> list[str]:
        """The models of the configuration that are none of these, by its own words, sorted."""
        names = {one.name for one in known}
        return sorted(key for key in self._configured if key.partition(":")[0] not in names)

    def checked(self, wanted: Reference, backend: str, others: Collection[str] = ()) -> Reference:
        """The reference with the adapter's name as it is configured.

        Args:
            wanted: a stored model, and maybe an adapter.
            backend: what runs the model.
            others: the further backends that could.

        Raises:
            LmxError: MODEL_NOT_FOUND, naming the adapters there are.
        """
        if not wanted.adapter:
            return wanted
        known = self.of(wanted.name, backend)
        alike = [name for name in known if name.lower() == wanted.adapter.lower()]
        if wanted.adapter not in known and len(alike) != 1:
            raise _unknown(wanted, list(known), self._elsewhere(wanted, others))
        name = wanted.adapter if wanted.adapter in known else alike[0]
        return msgspec.structs.replace(wanted, adapter=name)

    def _elsewhere(self, wanted: Reference, others: Collection[str]) -> str:
        """Another backend where the adapter is, if there is one."""
        there = (one for one in others if wanted.adapter in self.of(wanted.name, one))
        return next(there, "")

    def added(self, entry: ModelEntry, load: Load, info: ModelInfo) -> Adapted:
        """Add a model's adapters to how it is loaded, and to what it weighs.

        Args:
            entry: the model.
            load: how it is to be loaded.
            info: what it is without them, a draft model included.

        Raises:
            LmxError: INVALID_REQUEST `adapter_refused`, naming the setting; also for one that a
                worker has refused.
        """
        found = self.of(entry.name, load.backend)
        if not found:
            return Adapted(load, info)
        if entry.kind != "chat":
            name = next(iter(found))
            raise _refused(entry, name, "adapters are for models that make text.")
        versions: dict[str, str] = {}
        size = numbers = 0
        for name, path in found.items():
            try:
                read = self._facts(path, format_of(path), entry.info)
                if format_of(path) != load.backend:
                    raise invalid(f"it is not made for the {load.backend} backend.")
            except LmxError as error:
                raise _refused(entry, name, error.message) from None
            versions[name] = read.version
            size, numbers = size + read.weights_bytes, numbers + read.parameters
        paths = {name: str(path) for name, path in found.items()}
        return Adapted(
            msgspec.structs.replace(load, adapters=paths, adapter_versions=versions),
            msgspec.structs.replace(
                info, weights_bytes=info.weights_bytes + size, parameters=info.parameters + numbers
            ),
            versions,
            self._memory_of(entry, load, versions),
        )

    def _memory_of(
        self, entry: ModelEntry, load: Load, versions: Mapping[str, str]
    ) -> Callable[[LmxError], None]:
        """What notes why a model could not be loaded. Raises what was noted of these files."""
        key = (entry.name, load.backend)
        files = (entry.path, entry.created_ms, entry.size_bytes, tuple(versions.items()))
        noted, error = self._refused.get(key, (None, None))
        if error is not None and noted == files:
            raise error.again()

        def refuse(error: LmxError) -> None:
            if error.code == ADAPTER_REFUSED:
                self._refused[key] = files, error.again()
            if error.code == ADAPTER_CHANGED:  # maybe too soon after the last look to be told by it
                self._read.clear()

        return refuse

    def _facts(self, path: Path, kind: Format, model: ModelInfo) -> AdapterInfo:
        """What `read_adapter` says; it reads again only when a file has been written."""
        stamp = _stamp(path, kind)
        seen, read = self._read.get((path, model), (None, None))
        if read is None or not stamp or seen != stamp:
            read = read_adapter(path, kind, model)
            if len(self._read) >= _MAX_READ:
                self._read.clear()
            self._read[path, model] = stamp, read
        return read


def setting_of(model: str, adapter: str) -> str:
    """The setting that an adapter comes from, as callers are told."""
    return f"models.adapters.{model}.{adapter}"


def adapter_changed(model: str, name: str) -> LmxError:
    """The error for files that are others than those that were checked."""
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"The adapter '{name}' of model '{model}' has been changed on disk; "
        "the model is loaded anew when it is asked for again.",
        code=ADAPTER_CHANGED,
        param="model",
        retry_after=1,
    )


def _stamp(path: Path, kind: Format) -> _Stamp:
    """Changes whenever a file is written, or another one takes its place."""
    try:
        found = [file.stat() for file in adapter_files(path, kind)]
    except (OSError, LmxError):
        return ()
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found)


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # nobody has that home; there is no such file then
        return path


def _refused(entry: ModelEntry, name: str, reason: str) -> LmxError:
    field = setting_of(entry.name, name)
    return invalid(
        f"'{field}': the adapter '{name}' of model '{entry.name}' cannot be used: {reason}",
        param=field,
        code=ADAPTER_REFUSED,
    )


def _unknown(wanted: Reference, known: list[str], elsewhere: str) -> LmxError:
    listed = ", ".join(f"'{name}'" for name in known[:MAX_LISTED])
    there = f"It has {listed}." if listed else "It has no adapters."
    if elsewhere:
        there += f" '{wanted.name}:{elsewhere}:{wanted.adapter}' is one."
    return LmxError(
        ErrorKind.MODEL_NOT_FOUND,
        f"The model '{wanted.name}' has no adapter '{wanted.adapter[:100]}'. {there}",
        param="model",
    )
