"""The arithmetic, which is mlx-lm's: weights are read, packed and written one after another."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (mlx and mlx-lm are only partly typed)

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import get_total_parameters, load_model, make_shards, quantize_model, save_config

from opta_lmx.backends.mlx.loader import LOAD_ERRORS
from opta_lmx.backends.quantize.outcome import Packed
from opta_lmx.backends.quantize.rows import Unpacked, to_pack, unpacked_layers
from opta_lmx.backends.quantize.rules import Scheme
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.models.folder_info import INDEX

_FILE_GB = 1
"""Weights of one file are held in memory until it is written."""
_FREED_BYTES = 64 << 20
"""Freed buffers that MLX may keep."""
_FULL_DISK_BYTES = 16 << 20


class PackedModel(NamedTuple):
    """A model whose weights are packed when they are needed, its configuration, the figures."""

    model: Any
    config: dict[str, Any]
    layers: dict[str, Unpacked]
    facts: Packed


def open_model(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model with weights that are read when they are needed. LmxError: `model_unreadable`."""
    mx.set_cache_limit(_FREED_BYTES)
    with _typed(folder, "cannot be read", "model_unreadable"):
        model, config = load_model(folder, lazy=True)
        return model, config


def pack(model: Any, config: dict[str, Any], scheme: Scheme) -> PackedModel:
    """Put packed layers in place of those that can be; nothing is computed yet.

    Raises:
        LmxError: INVALID_REQUEST `nothing_to_quantise`, `model_unreadable`.
    """
    with _typed(None, "cannot be quantised", "not_quantisable"):
        able = unpacked_layers(model)
        model, config = quantize_model(
            model, config, scheme.group_size, scheme.bits, mode=scheme.mode
        )
        done = sum("scales" in module for _, module in model.named_modules())
        if not done:
            raise invalid(
                f"No layer's width is a multiple of {scheme.group_size}; choose a smaller group.",
                param="group_size",
                code="nothing_to_quantise",
            )
        nbytes = sum(int(array.nbytes) for _, array in _leaves(model))
        per_weight = 8 * nbytes / max(1, _parameters(model))
        facts = Packed(round(per_weight, 3), done, len(able) - done)
    return PackedModel(model, config, to_pack(model, able), facts)


def write(packed: PackedModel, folder: Path, report: Callable[[int, int, str], None]) -> None:
    """Compute and write weights, index and configuration.

    At most one file's weights are in memory at a time, and the layer they are made of.

    Args:
        packed: the model; empty afterwards.
        folder: where to write.
        report: told the bytes done and in all, and the layer.

    Raises:
        LmxError: INSUFFICIENT_RESOURCES `insufficient_disk`; INVALID_REQUEST `not_quantisable`.
    """
    model, config, layers, _ = packed
    parameters = _parameters(model)
    shards: list[dict[str, Any] | None] = [*_shards(model)]
    model.update(tree_map(_nothing, model.parameters()))
    total, done = sum(int(a.nbytes) for shard in shards if shard for a in shard.values()), 0
    places: dict[str, str] = {}
    ready: dict[str, Any] = {}
    for number in range(len(shards)):
        shard, shards[number] = shards[number] or {}, None
        name = _file_name(number, len(shards))
        with _typed(folder, "cannot be quantised", "not_quantisable"):
            for key in shard:
                layer = key.rpartition(".")[0]
                if layer in layers:
                    ready |= _placed(layer, layers.pop(layer).packed())
                shard[key] = ready.pop(key, shard[key])
                mx.eval(shard[key])
                done += int(shard[key].nbytes)
                report(done, total, layer)
            mx.save_safetensors(str(folder / name), shard, metadata={"format": "mlx"})
        places |= dict.fromkeys(shard, name)
        del shard
    sizes = {"total_size": total, "total_parameters": parameters}
    index = {"metadata": sizes, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=1), "utf-8")
    save_config(config, folder / "config.json")


def _leaves(model: Any) -> list[tuple[str, Any]]:
    return cast("list[tuple[str, Any]]", tree_flatten(model.parameters()))


def _parameters(model: Any) -> int:
    return int(cast(Any, get_total_parameters(model)))


def _shards(model: Any) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", make_shards(dict(_leaves(model)), _FILE_GB))


def _nothing(_: object) -> Any:
    return mx.array([])


def _placed(layer: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{layer}.{name}": array for name, array in arrays.items()}


def _file_name(number: int, count: int) -> str:
    if count == 1:
        return "model.safetensors"
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


@contextmanager
def _typed(folder: Path | None, what: str, code: str) -> Generator[None]:
    """Turn what mlx and mlx-lm raise into typed errors."""
    try:
        yield
    except LOAD_ERRORS as error:
        if folder and folder.is_dir() and shutil.disk_usage(folder).free < _FULL_DISK_BYTES:
            raise LmxError(
                ErrorKind.INSUFFICIENT_RESOURCES,
                "The disk became full.",
                code="insufficient_disk",
            ) from error
        # The folder's own path is of no use to a caller.
        reason = str(error).replace(f"{folder}/", "") if folder else str(error)
        raise invalid(f"The model {what}: {reason}", param="model", code=code) from error
