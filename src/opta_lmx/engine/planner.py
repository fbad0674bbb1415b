"""Decides how a named model is run: which backend, which files, which settings."""

import hashlib
import os
import stat
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from opta_lmx.backends import registry
from opta_lmx.backends.frames import Load
from opta_lmx.backends.mlx.environment import worker_environment
from opta_lmx.config.sections.engine import EngineSettings, ModelOverride
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.engine.adapting import Adapters
from opta_lmx.engine.appetite import Appetite
from opta_lmx.engine.cache_types import cache_type
from opta_lmx.engine.caching import StateHome
from opta_lmx.engine.conversion import Conversions
from opta_lmx.engine.drafting import drafted
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.sizing import Sizing
from opta_lmx.engine.speaking import Abilities, abilities_of, check_overrides, speech_of
from opta_lmx.models.index import ModelIndex
from opta_lmx.models.matching import Known, Reference, resolve
from opta_lmx.models.store import ModelEntry, ModelStore

BackendName = Literal["mlx", "gguf"]
_BACKENDS: tuple[BackendName, ...] = ("mlx", "gguf")
_Found = tuple[Reference, Known]
_MAX_RESOLVED = 1_000
_LONGEST_RUNTIME_DIR = 56
"""Characters; what lies below must fit a UNIX socket address (104 bytes on macOS)."""


class Planner:
    """Turns a model reference into a `Plan`.

    Args:
        store: models on disk.
        settings: the engine section.
        home: state folder; runtime sockets and worker logs live below it.
        models: the models section: their other names, and their adapters.
        memory: the memory section.

    Attributes:
        leaving: names of models that are being deleted; for the event loop alone.

    Raises:
        LmxError: INVALID_REQUEST `invalid_config`; an override that nothing can follow.
    """

    def __init__(
        self,
        store: ModelStore,
        settings: EngineSettings,
        home: Path,
        models: ModelsSettings | None = None,
        memory: MemorySettings | None = None,
    ) -> None:
        check_overrides(settings)
        self.store = store
        self._settings = settings
        self._home = home
        models = models or ModelsSettings()
        self._aliases = dict(models.aliases)
        self._adapters = Adapters(models.adapters, home)
        self._sizing = Sizing(memory or MemorySettings())
        self._index = ModelIndex(store)
        self._conversions = Conversions(store)
        self.leaving: set[str] = set()
        self._resolved: tuple[int, dict[str, _Found | LmxError]] = (-1, {})

    def reference(self, ref: str) -> Reference:
        """Which stored model a client means; an adapter of it is none.

        Costs no reading of files unless the store has changed.

        Raises:
            LmxError: MODEL_NOT_FOUND, with code `model_ambiguous` where several are meant;
                INVALID_REQUEST `adapter_not_applicable`.
        """
        wanted = self._find(ref)[0]
        if wanted.adapter:
            raise invalid(
                f"'{ref[:200]}' names an adapter of '{wanted.name}'; only the model itself can be "
                "meant here.",
                param="model",
                code="adapter_not_applicable",
            )
        return wanted

    def asked(self, ref: str) -> Reference:
        """The same for a request, which may name an adapter. Raises MODEL_NOT_FOUND."""
        return self._find(ref)[0]

    def adapter(self, ref: str) -> str:
        """The adapter that a reference names; empty for none. Raises MODEL_NOT_FOUND."""
        return self._find(ref)[0].adapter

    def adapters_of(self, model: ModelEntry | Known, backend: str) -> tuple[str, ...]:
        """Names of the adapters that a model has on a backend."""
        return tuple(self._adapters.of(model.name, backend))

    def stray_adapters(self) -> list[str]:
        """Models that adapters are configured for and that the store does not have, sorted."""
        return self._adapters.strays(self.known())

    def _find(self, ref: str) -> _Found:
        known = self._index.known()
        version, resolved = self._resolved
        if version != self._index.version or len(resolved) > _MAX_RESOLVED:
            version, resolved = self._resolved = self._index.version, {}
        found = resolved.get(ref)
        if found is None:
            found = resolved[ref] = self._resolve(ref, known)
        if isinstance(found, LmxError):
            raise found.again()
        return found

    def _resolve(self, ref: str, known: Sequence[Known]) -> _Found | LmxError:
        """What is found, or why nothing is: a request asks several times, and clients again."""
        try:
            wanted = resolve(ref, known, self._aliases)
            model = next(one for one in known if one.name == wanted.name)
            backend = wanted.backend or self.default_backend(model)
            others = [one for one in _BACKENDS if one != backend and _mismatch(model, one) is None]
            return self._adapters.checked(wanted, backend, others), model
        except LmxError as error:
            return error.with_traceback(None)

    def known(self) -> Sequence[Known]:
        """The models there are, as far as their names matter."""
        return self._index.known()

    @property
    def aliases(self) -> tuple[str, ...]:
        """The configured other names, sorted."""
        return tuple(sorted(self._aliases))

    def canonical(self, ref: str) -> str:
        """The id under which `ref` is served: the bare name for a model's default backend."""
        wanted, model = self._find(ref)
        return self.id_of(model, wanted.backend)

    def id_of(self, model: ModelEntry | Known, backend: str | None) -> str:
        """The id of a model on a backend (None: its default one)."""
        if backend is None or backend == self.default_backend(model):
            return model.name
        return f"{model.name}:{backend}"

    def default_backend(self, model: ModelEntry | Known) -> BackendName:
        """The backend that runs a model where none is asked for."""
        choice = self._settings.for_model(model.name).backend
        if model.format == "mlx":
            return "mlx"
        if model.kind != "chat":
            return "gguf"  # only models that make text are converted
        if choice == "mlx":
            return "mlx"
        return "gguf" if choice == "gguf" else self._preferred

    @cached_property
    def _preferred(self) -> BackendName:
        """The better engine of this machine for a GGUF file."""
        if registry.missing_modules("mlx"):
            return "gguf"
        alone = bool(registry.missing_modules("gguf"))
        return "mlx" if alone or registry.has_accelerator() else "gguf"

    def abilities(self, entry: ModelEntry) -> Abilities:
        """What may be promised of a model before it is loaded."""
        return abilities_of(entry.info, self._settings.for_model(entry.name))

    def window_of(self, entry: ModelEntry) -> int:
        """Tokens a request to this model may use, as far as known before it is loaded."""
        configured = self._settings.for_model(entry.name).context or 0
        own = entry.info.context_length
        return min(configured, own) if configured and own else configured or own

    def draft_of(self, name: str) -> str | None:
        """The stored model that drafts for a model of the store; None where none does."""
        draft = self._settings.for_model(name).draft
        try:
            return None if draft is None else self.reference(draft).name
        except LmxError:
            return None

    def refuse_leaving(self, name: str | None) -> None:
        """Raise LmxError(CONFLICT, code `model_busy`) for a model that is being deleted."""
        if name in self.leaving:
            raise LmxError(
                ErrorKind.CONFLICT,
                f"The model '{name}' is being deleted.",
                code="model_busy",
                param="model",
            )

    def appetite(self, entry: ModelEntry, backend: BackendName) -> Appetite:
        """What a model would take; it need not be in the store, only described.

        Raises:
            LmxError: INVALID_REQUEST `draft_refused`, `adapter_refused`, `kv_type_refused`.
        """
        override = self._settings.for_model(entry.name)
        load, info = drafted(entry, self._load(entry, backend, override), override, self._entry_of)
        adapted = self._adapters.added(entry, load, info)
        return Appetite(self._sizing, adapted.info, adapted.load, self._held_bytes(backend))

    def _held_bytes(self, backend: BackendName) -> int:
        """What processed prompts may take besides running requests."""
        return self._settings.prefix_cache_bytes or 0 if backend == "mlx" else 0

    def plan(self, ref: str, context: int | None = None) -> Plan:
        """How to run `ref`, with a window of `context` tokens if given (at most its own).

        Raises:
            LmxError: MODEL_NOT_FOUND; INVALID_REQUEST `missing_extra`, `backend_mismatch`,
                `draft_refused`, `adapter_refused`, `kv_type_refused`; CONFLICT `model_broken`,
                `model_busy`.
        """
        wanted = self.asked(ref)
        for name in (wanted.name, self.draft_of(wanted.name)):
            self.refuse_leaving(name)
        entry = self.store.get(wanted.name)
        override = self._settings.for_model(entry.name)
        backend = self.backend_of(entry, wanted.backend)
        registry.require(backend)
        runtime_dir(self._home)
        load = self._load(entry, backend, override)
        load, info = drafted(entry, load, override, self._entry_of)
        adapted = self._adapters.added(entry, load, info)
        load, info = adapted.load, adapted.info
        window = self._window(entry, context)
        if window:
            load = msgspec.structs.replace(load, context=window)
        converts = backend == "mlx" and entry.format == "gguf" and not entry.converted
        layout = msgspec.json.encode(load.options, order="sorted").decode()
        sized = self._sizing.of(info, load, self._held_bytes(backend))
        load = msgspec.structs.replace(load, options={**sized.options, **load.options})

        async def prepare() -> Load:
            if backend == "mlx" and entry.format == "gguf":
                await self._conversions.make(entry)
            await adapted.unchanged()
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
            kind=entry.kind,
            context=window,
            weights_bytes=info.weights_bytes,
            convert_bytes=entry.info.weights_bytes if converts else 0,
            states=StateHome(self._home / "cache" / "prefix", Path(load.path), layout),
            need=sized.need,
            ttl_s=override.ttl_s,
            adapters=adapted.versions,
            refuse=adapted.refuse,
        )

    def _entry_of(self, ref: str) -> tuple[Reference, ModelEntry]:
        wanted = self.reference(ref)
        return wanted, self.store.get(wanted.name)

    def _window(self, entry: ModelEntry, context: int | None) -> int:
        """The window asked for, within the model's; 0 where none was asked for."""
        most = self.window_of(entry)
        return min(context, most) if context and most else context or 0

    def _load(self, entry: ModelEntry, backend: BackendName, override: ModelOverride) -> Load:
        path = entry.path
        if backend == "mlx" and entry.format == "gguf":
            path = self.store.conversion_dir(entry.name)
        template = _read_template(override)
        return Load(
            model=entry.name,
            backend=backend,
            kind=entry.info.kind,
            path=str(path),
            context=override.context or 0,
            slots=override.slots or self._settings.slots,
            threads=override.threads or 0,
            template=template,
            speech=speech_of(override, template or entry.info.chat_template),
            runtime_dir=str(runtime_path(self._home)),
            options={
                **self._own_options(entry, backend),
                **cache_type(entry, backend, override),
                **override.options,
            },
        )

    def _own_options(self, entry: ModelEntry, backend: BackendName) -> dict[str, Any]:
        """Options that follow from our settings; llama.cpp keeps prompts over restarts itself."""
        if entry.kind != "chat":
            return {}
        most, caches = self._settings.prefix_cache_disk_bytes, self._settings.kv_bytes
        options: dict[str, Any] = {} if caches is None else {"kv_bytes": caches}
        if backend == "gguf" and most:
            options |= {"slot_dir": str(self._home / "cache" / "slots"), "slot_bytes": most}
        return options

    def backend_of(self, entry: ModelEntry, asked: str | None) -> BackendName:
        """The backend for a model: the one asked for, or its default.

        Raises:
            LmxError: INVALID_REQUEST `backend_mismatch`; that one cannot run it.
        """
        if asked is None:
            return self.default_backend(entry)
        if (reason := _mismatch(entry, asked)) is not None:
            raise invalid(reason, param="model", code="backend_mismatch")
        return "mlx" if asked == "mlx" else "gguf"


def _mismatch(model: ModelEntry | Known, backend: str) -> str | None:
    """Why a backend cannot run a model; None where it can."""
    if backend == "gguf" and model.format != "gguf":
        return f"Model '{model.name}' is not a GGUF file, so llama.cpp cannot run it."
    if backend == "mlx" and model.format == "gguf" and model.kind != "chat":
        return f"Model '{model.name}' is a GGUF file that makes no text; MLX cannot run it."
    return None


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
        return override.template.expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LmxError(
            ErrorKind.INVALID_REQUEST,
            f"The chat template {override.template} cannot be read: {reason}.",
            code="invalid_config",
            param="engine.overrides",
        ) from None
