"""Which LoRA adapters a model has, and how it is loaded with them."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from opta_lmx.backends.frames import Load
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.models.adapters import format_of, read_adapter, version_of
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.matching import MAX_LISTED, Reference
from opta_lmx.models.store import ModelEntry


class Adapted(msgspec.Struct, frozen=True):
    """A model with its adapters: how to load them, what they are together, their versions."""

    load: Load
    info: ModelInfo
    versions: Mapping[str, str] = {}

    async def unchanged(self) -> None:
        """Raise UNAVAILABLE `adapter_changed` if a file is another than when it was checked.

        What was processed with one version must not be continued with another.
        """
        if self.versions:
            await asyncio.to_thread(self._compare)

    def _compare(self) -> None:
        for name, path in self.load.adapters.items():
            place = Path(path)
            if version_of(place, format_of(place)) != self.versions[name]:
                raise LmxError(
                    ErrorKind.UNAVAILABLE,
                    f"The adapter '{name}' of model '{self.load.model}' has been changed on disk; "
                    "the model is loaded anew when it is asked for again.",
                    code="adapter_changed",
                    param="model",
                    retry_after=1,
                )


class Adapters:
    """The configured adapters.

    Args:
        configured: paths by the model's name, with or without `:BACKEND`, and the adapter's.
        home: relative paths start here.
    """

    def __init__(self, configured: Mapping[str, Mapping[str, Path]], home: Path) -> None:
        self._configured = configured
        self._home = home

    def of(self, model: str, backend: str) -> dict[str, Path]:
        """Paths of the adapters that a model of the store has on a backend, by name."""
        shared = self._configured.get(model, {})
        fitting = {name: path for name, path in shared.items() if format_of(path) == backend}
        both = {**fitting, **self._configured.get(f"{model}:{backend}", {})}
        return {name: self._home / _expanded(both[name]) for name in sorted(both)}

    def checked(self, wanted: Reference, backend: str) -> Reference:
        """The reference with the adapter's name as it is configured.

        Raises:
            LmxError: MODEL_NOT_FOUND, naming the adapters there are.
        """
        if not wanted.adapter:
            return wanted
        known = self.of(wanted.name, backend)
        alike = [name for name in known if name.lower() == wanted.adapter.lower()]
        if wanted.adapter not in known and len(alike) != 1:
            raise _unknown(wanted, list(known), self._elsewhere(wanted, backend))
        name = wanted.adapter if wanted.adapter in known else alike[0]
        return msgspec.structs.replace(wanted, adapter=name)

    def _elsewhere(self, wanted: Reference, backend: str) -> str:
        """The other backend, if the adapter is there."""
        other = "gguf" if backend == "mlx" else "mlx"
        return other if wanted.adapter in self.of(wanted.name, other) else ""

    def added(self, entry: ModelEntry, load: Load, info: ModelInfo) -> Adapted:
        """Add a model's adapters to how it is loaded, and to what it weighs.

        Args:
            entry: the model.
            load: how it is to be loaded.
            info: what it is without them, a draft model included.

        Raises:
            LmxError: INVALID_REQUEST `adapter_refused`, naming the setting.
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
                read = read_adapter(path, format_of(path), entry.info)
                if format_of(path) != load.backend:
                    raise invalid(f"it is not made for the {load.backend} backend.")
            except LmxError as error:
                raise _refused(entry, name, error.message) from None
            versions[name] = read.version
            size, numbers = size + read.weights_bytes, numbers + read.parameters
        return Adapted(
            msgspec.structs.replace(
                load, adapters={name: str(path) for name, path in found.items()}
            ),
            msgspec.structs.replace(
                info, weights_bytes=info.weights_bytes + size, parameters=info.parameters + numbers
            ),
            versions,
        )


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # nobody has that home; there is no such file then
        return path


def _refused(entry: ModelEntry, name: str, reason: str) -> LmxError:
    field = f"models.adapters.{entry.name}.{name}"
    return invalid(
        f"'{field}': the adapter '{name}' of model '{entry.name}' cannot be used: {reason}",
        param=field,
        code="adapter_refused",
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
