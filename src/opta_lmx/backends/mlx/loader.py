"""Loads an MLX folder: weights by mlx-lm, tokenizer by ours, everything wrong told as LoadError."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (mlx and mlx-lm are only partly typed)

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import mlx.core as mx
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from opta_lmx.backends.mlx.adapters import Adapters, load_adapters
from opta_lmx.backends.mlx.cpu import kernels
from opta_lmx.backends.mlx.folder import ModelFolder, read_folder
from opta_lmx.backends.mlx.memory import hold
from opta_lmx.backends.protocol import LoadError
from opta_lmx.backends.text.tokenizer import HfTokenizer

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

LOAD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError),
    *(NotImplementedError, OSError, RecursionError, RuntimeError, TypeError, ValueError),
)
"""What a damaged or hostile folder makes mlx and mlx-lm raise."""


class MlxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The adapter's own settings (`Load.options`).

    `dtype` is that of weights and caches; `auto` keeps the model's, except on a CPU, where only
    float32 has fast kernels. `kv_bytes` bounds the caches (None: by free memory).

    MLX's own limits, in bytes (None: as they are): `memory_bytes` from which on it hurries to
    free what is unused, `cache_bytes` of freed buffers that it keeps, `wired_bytes` that Metal
    wires. None of them is ever raised.
    """

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    kv_bytes: int | None = None
    memory_bytes: int | None = None
    cache_bytes: int | None = None
    wired_bytes: int | None = None


class LoadedModel(NamedTuple):
    """A model in memory, evaluated, with everything known about it; `weights_bytes` of all."""

    model: Any
    folder: ModelFolder
    tokenizer: HfTokenizer
    weights_bytes: int
    adapters: Adapters


def read_options(options: dict[str, Any]) -> MlxOptions:
    """Check the adapter's options. Raises LoadError."""
    try:
        return msgspec.convert(options, MlxOptions)
    except msgspec.ValidationError as error:
        raise LoadError(f"engine option refused: {error}") from error


def hold_to(options: MlxOptions) -> None:
    """Set MLX's limits, before anything is loaded."""
    hold(options.memory_bytes, options.cache_bytes, options.wired_bytes)


def load(path: Path, options: MlxOptions, adapters: Mapping[str, str] | None = None) -> LoadedModel:
    """Load weights and tokenizer, and the folders of `adapters`, by name.

    Raises:
        LoadError: a folder is damaged, unknown to mlx-lm, or refused.
    """
    folder = read_folder(path)
    tokenizer = HfTokenizer.from_folder(path)
    with_numpy = kernels.install()
    try:
        model: Any = load_model(path, lazy=True)[0]
        dtype = dtype_of(options)
        if dtype is not None:
            model.set_dtype(dtype)
    except LOAD_ERRORS as error:
        raise _unloadable(path, error) from error
    # Before the weights are read, which takes minutes where adapters take moments.
    added = load_adapters(model, adapters or {}, dtype)
    try:
        mx.eval(model.parameters())
        if with_numpy:
            caches = make_prompt_cache(model)
            one = mx.zeros((1, 1), mx.int32)
            kernels.forwards.learn(lambda: model(one, cache=caches), len(caches))
    except LOAD_ERRORS as error:
        raise _unloadable(path, error) from error
    leaves = dict(cast("list[tuple[str, Any]]", tree_flatten(model.parameters())))
    weights = sum(int(array.nbytes) for array in leaves.values())
    return LoadedModel(model, folder, tokenizer, weights + added.nbytes, added)


def _unloadable(path: Path, error: BaseException) -> LoadError:
    """The error; the folder's own path is of no use to a caller."""
    reason = str(error).replace(f"{path}/", "").replace(str(path), "the model folder")
    return LoadError(f"the weights cannot be loaded: {reason}")


def engine_name() -> str:
    """Versions and device, for people."""
    device = mx.default_device().type.name
    return f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, {device}"


def is_repeatable(model: Any) -> bool:
    """Whether a row comes out the same alone and among others, but for float32's rounding.

    On a CPU in float32 it does: its numbers differ in their sixth digit. A GPU chooses its kernels
    by the width of the batch, and half precision rounds in the third.
    """
    leaves = cast("list[tuple[str, Any]]", tree_flatten(model.parameters()))
    plain = all(array.dtype == mx.float32 for _, array in leaves)
    return plain and mx.default_device().type == mx.DeviceType.cpu


def dtype_of(options: MlxOptions) -> Any:
    """The dtype to cast to, or None to leave the weights as they are."""
    if options.dtype != "auto":
        return _DTYPES[options.dtype]
    return mx.float32 if mx.default_device().type == mx.DeviceType.cpu else None
