"""Decides how a named model is run: which backend, which files, which settings."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Literal

from opta_lmx.backends import registry
from opta_lmx.backends.frames import Load
from opta_lmx.backends.mlx.environment import worker_environment
from opta_lmx.config.settings import EngineSettings, ModelOverride
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.engine.conversion import convert
from opta_lmx.engine.runtime import Plan
from opta_lmx.models.store import ModelEntry, ModelStore

BackendName = Literal["mlx", "gguf"]
_LONGEST_RUNTIME_DIR = 56
"""Characters; what lies below must fit a UNIX socket address (104 bytes on macOS)."""


def split_ref(ref: str) -> tuple[str, str | None]:
    """Split `NAME[:BACKEND]` into the model's name and the backend asked for, if any."""
    name, _, backend = ref.rpartition(":")
    if name and backend in ("mlx", "gguf"):
        return name, backend
    return ref, None


class Planner:
    """Turns a model reference into a `Plan`.

    Args:
        store: models on disk.
        settings: the engine section.
        home: state folder; runtime sockets and worker logs live below it.
    """

    def __init__(self, store: ModelStore, settings: EngineSettings, home: Path) -> None:
        self.store = store
        self._settings = settings
        self._home = home

    def canonical(self, ref: str) -> str:
        """The id under which `ref` is served: the bare name for a model's default backend."""
        name, asked = split_ref(ref)
        return self.id_of(self.store.get(name), asked)

    def id_of(self, entry: ModelEntry, backend: str | None) -> str:
        """The id of a model on a backend (None: its default one)."""
        if backend is None or backend == self.default_backend(entry):
            return entry.name
        return f"{entry.name}:{backend}"

    def default_backend(self, entry: ModelEntry) -> BackendName:
        """The backend that runs a model where none is asked for."""
        choice = self._settings.for_model(entry.name).backend
        if choice == "mlx" or entry.format == "mlx":
            return "mlx"
        if choice == "gguf":
            return "gguf"
        if registry.missing_modules("mlx"):
            return "gguf"
        alone = bool(registry.missing_modules("gguf"))
        return "mlx" if alone or registry.has_accelerator() else "gguf"

    def window_of(self, entry: ModelEntry) -> int:
        """Tokens a request to this model may use, as far as known before it is loaded."""
        configured = self._settings.for_model(entry.name).context or 0
        own = entry.info.context_length
        return min(configured, own) if configured and own else configured or own

    def plan(self, ref: str) -> Plan:
        """How to run `ref`. Raises MODEL_NOT_FOUND, `missing_extra`, `backend_mismatch`."""
        name, asked = split_ref(ref)
        entry = self.store.get(name)
        override = self._settings.for_model(entry.name)
        backend = self._backend(entry, asked)
        registry.require(backend)
        load = self._load(entry, backend, override)

        async def prepare() -> Load:
            if backend == "mlx" and entry.format == "gguf":
                await convert(self.store, entry)
            return load

        model_id = self.id_of(entry, backend)
        file_name = hashlib.sha256(model_id.encode()).hexdigest()[:8]
        environment = {}
        if backend == "mlx":
            # One folder a model: MLX keeps compiled kernels there, and two workers that compile
            # the same kernel for the first time must not meet.
            folder = self._home / "cache" / f"mlx-{file_name}"
            environment = worker_environment(folder).variables
        return Plan(
            ref=model_id,
            backend=backend,
            slots=load.slots,
            prepare=prepare,
            sampling=entry.info.sampling,
            environment=environment,
            log_file=self._home / "logs" / f"worker-{entry.path.stem}-{file_name}.log",
        )

    def _load(self, entry: ModelEntry, backend: BackendName, override: ModelOverride) -> Load:
        path = entry.path
        if backend == "mlx" and entry.format == "gguf":
            path = self.store.conversion_dir(entry.name)
        return Load(
            model=entry.name,
            backend=backend,
            path=str(path),
            context=override.context or 0,
            slots=override.slots or self._settings.slots,
            threads=override.threads or 0,
            template=_read_template(override),
            runtime_dir=str(runtime_dir(self._home)),
            options=dict(override.options),
        )

    def _backend(self, entry: ModelEntry, asked: str | None) -> BackendName:
        if asked is None:
            return self.default_backend(entry)
        if asked == "gguf" and entry.format != "gguf":
            raise invalid(
                f"Model '{entry.name}' is not a GGUF file, so llama.cpp cannot run it.",
                param="backend",
                code="backend_mismatch",
            )
        return "mlx" if asked == "mlx" else "gguf"


def runtime_path(home: Path) -> Path:
    """Where the sockets of a home lie: in it, or elsewhere where its name is too long."""
    inside = home / "run"
    if len(str(inside)) <= _LONGEST_RUNTIME_DIR:
        return inside
    name = f"opta-lmx-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"
    session = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if session.is_absolute() and len(str(session / name)) <= _LONGEST_RUNTIME_DIR:
        try:
            if session.stat().st_uid == os.getuid():
                return session / name
        except OSError:
            pass  # a session that has ended leaves the variable behind
    return Path("/tmp") / name  # noqa: S108  (`runtime_dir` refuses what is not ours)


def runtime_dir(home: Path) -> Path:
    """A 0700 folder of ours for sockets, short enough for a UNIX socket address.

    Raises:
        LmxError: UNAVAILABLE `bad_state`: it cannot be made, or something else is in its place.
    """
    path = runtime_path(home)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            _take_over(path)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    return path


def _take_over(path: Path) -> None:
    """Make a folder found at a name that others can guess private; it must be ours already."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _unusable(path, "it is not a folder")
    if found.st_uid != os.getuid():
        raise _unusable(path, "it belongs to another user")
    path.chmod(0o700)


def _unusable(path: Path, reason: str) -> LmxError:
    return LmxError(
        ErrorKind.UNAVAILABLE,
        f"The folder {path} for sockets cannot be used: {reason}.",
        code="bad_state",
    )


def _read_template(override: ModelOverride) -> str | None:
    if override.template is None:
        return None
    try:
        return override.template.expanduser().read_text()
    except OSError as error:
        raise LmxError(
            ErrorKind.INVALID_REQUEST,
            f"The chat template {override.template} cannot be read: {error.strerror}.",
            code="invalid_config",
            param="engine.overrides",
        ) from None
