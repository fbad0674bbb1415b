"""Which adapters exist, and whether what they need is installed. Imports none of them."""

import platform
import shutil
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import cast

from opta_lmx.backends.embedding.encoder import OpenEncoder
from opta_lmx.backends.embedding.engine import VectorEngine
from opta_lmx.backends.frames import Load, ModelKind
from opta_lmx.backends.protocol import ADAPTER_CHANGED, Engine, LoadError
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.adapters import format_of, version_of

_FACTORIES = {
    "mlx": "opta_lmx.backends.mlx.engine",
    "gguf": "opta_lmx.backends.gguf.engine",
    "sim": "opta_lmx.backends.sim.engine",
}
_ENCODERS = {
    "mlx": "opta_lmx.backends.mlx.embedding.encoder",
    "gguf": "opta_lmx.backends.gguf.embedding.encoder",
    "sim": "opta_lmx.backends.sim.embedding",
}
_DRAFTS = ("gguf",)
_NEEDS = {"mlx": ("mlx", "mlx_lm"), "gguf": ("xllamacpp",), "sim": ()}


def missing_modules(backend: str) -> tuple[str, ...]:
    """Modules a backend needs that are not installed; empty when it can run."""
    return tuple(name for name in _NEEDS[backend] if util.find_spec(name) is None)


def require(backend: str) -> None:
    """Raise a typed error naming the extra when `backend` is not installed."""
    missing = missing_modules(backend)
    if missing:
        raise LmxError(
            ErrorKind.INVALID_REQUEST,
            f"The {backend} backend is not installed ({', '.join(missing)} missing). "
            f"Install it with: pip install 'opta-lmx[{backend}]'",
            code="missing_extra",
            param="model",
        )


def drafts(backend: str, kind: ModelKind = "chat") -> bool:
    """Whether a backend can run a draft model beside a model of this kind."""
    return backend in _DRAFTS and kind == "chat"


def check_draft(spec: Load) -> None:
    """Raise LoadError (`draft_refused`) where a draft model is asked of a backend without any."""
    if spec.draft and not drafts(spec.backend, spec.kind):
        raise LoadError(f"the {spec.backend} backend has no draft models", "draft_refused")


def check_versions(spec: Load) -> None:
    """Hold the adapters that were read against those that were checked.

    For when everything has been read: files may be written anew at any time before that.

    Raises:
        LoadError: `adapter_changed`; what is in memory may be neither the one nor the other.
    """
    for name, version in spec.adapter_versions.items():
        path = Path(spec.adapters[name])
        if version_of(path, format_of(path)) != version:
            message = f"the adapter '{name}' has been changed on disk"
            raise LoadError(message, ADAPTER_CHANGED, name)


def has_accelerator() -> bool:
    """True where MLX has a GPU: Apple Silicon, or an NVIDIA driver on Linux."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return shutil.which("nvidia-smi") is not None


def create_engine(backend: str, kind: ModelKind = "chat") -> Engine:
    """Import an adapter and make its engine; for the worker process only."""
    try:
        module = import_module((_FACTORIES if kind == "chat" else _ENCODERS)[backend])
    except ImportError as error:
        raise LoadError(
            f"The {backend} backend cannot be imported: {error}", "missing_extra"
        ) from None
    if kind == "chat":
        return cast("Callable[[], Engine]", module.create)()
    return VectorEngine(cast("OpenEncoder", module.open_encoder))
