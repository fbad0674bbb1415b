"""Decides how a named model is run: which backend, which files, which settings."""

import hashlib
from pathlib import Path
from typing import Literal

from opta_lmx.backends import registry
from opta_lmx.backends.frames import Load
from opta_lmx.backends.mlx.environment import worker_environment
from opta_lmx.config.settings import EngineSettings, ModelOverride
from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.engine.conversion import convert
from opta_lmx.engine.runtime import Plan
from opta_lmx.models.store import ModelEntry, ModelStore

BackendName = Literal["mlx", "gguf"]
_SOCKET_PATH_LIMIT = 96


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
        name, backend = split_ref(ref)
        entry = self.store.get(name)
        if backend is None or backend == self._default_backend(entry):
            return entry.name
        return f"{entry.name}:{backend}"

    def backend_of(self, ref: str) -> str:
        """The backend that runs, or would run, `ref`."""
        name, asked = split_ref(ref)
        return asked or self._default_backend(self.store.get(name))

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

        log_name = hashlib.sha256(ref.encode()).hexdigest()[:8]
        environment = {}
        if backend == "mlx":
            # One folder a model: MLX keeps compiled kernels there, and two workers that compile
            # the same kernel for the first time must not meet.
            folder = self._home / "cache" / f"mlx-{log_name}"
            environment = worker_environment(folder).variables
        return Plan(
            ref=self.canonical(ref),
            backend=backend,
            slots=load.slots,
            prepare=prepare,
            sampling=entry.info.sampling,
            environment=environment,
            log_file=self._home / "logs" / f"worker-{entry.path.stem}-{log_name}.log",
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

    def _default_backend(self, entry: ModelEntry) -> BackendName:
        choice = self._settings.for_model(entry.name).backend
        if choice == "mlx" or entry.format == "mlx":
            return "mlx"
        if choice == "gguf":
            return "gguf"
        if registry.missing_modules("mlx"):
            return "gguf"
        alone = bool(registry.missing_modules("gguf"))
        return "mlx" if alone or registry.has_accelerator() else "gguf"

    def _backend(self, entry: ModelEntry, asked: str | None) -> BackendName:
        if asked is None:
            return self._default_backend(entry)
        if asked == "gguf" and entry.format != "gguf":
            raise invalid(
                f"Model '{entry.name}' is not a GGUF file, so llama.cpp cannot run it.",
                param="backend",
                code="backend_mismatch",
            )
        return "mlx" if asked == "mlx" else "gguf"


def runtime_dir(home: Path) -> Path:
    """A 0700 folder for sockets, short enough for a UNIX socket address."""
    path = home / "run"
    if len(str(path)) > _SOCKET_PATH_LIMIT - 40:
        digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
        path = Path("/tmp") / f"opta-lmx-{digest}"  # noqa: S108  (ownership and mode checked below)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def _read_template(override: ModelOverride) -> str | None:
    if override.template is None:
        return None
    try:
        return override.template.expanduser().read_text()
    except OSError as error:
        raise LmxError(
            invalid("").kind,
            f"The chat template {override.template} cannot be read: {error.strerror}.",
            code="invalid_config",
            param="engine.overrides",
        ) from None
