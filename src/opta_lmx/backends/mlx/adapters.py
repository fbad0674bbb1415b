"""LoRA adapters of one model: mlx-lm's layers around its own, put in their place for a step.

The model's weights are there once, whatever adapters it has: an adapter's layer holds the model's
own and adds its low-rank term. With no adapter in use the model is what it was when loaded.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# (mlx and mlx-lm are only partly typed)

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn  # pyright: ignore[reportMissingTypeStubs]
from mlx_lm.models.switch_layers import (  # pyright: ignore[reportMissingTypeStubs]
    QuantizedSwitchLinear,
    SwitchLinear,
)
from mlx_lm.tuner.dora import DoRALinear  # pyright: ignore[reportMissingTypeStubs]
from mlx_lm.tuner.lora import (  # pyright: ignore[reportMissingTypeStubs]
    LoRAEmbedding,
    LoRALinear,
    LoRASwitchLinear,
)

from opta_lmx.backends.protocol import ADAPTER_REFUSED, LoadError
from opta_lmx.backends.shortage import is_out_of_memory
from opta_lmx.core.errors import LmxError
from opta_lmx.models.adapters import WEIGHTS, method_of, read_config, scale_of

_LINEAR = (nn.Linear, nn.QuantizedLinear)
_EMBEDDING = (nn.Embedding, nn.QuantizedEmbedding)
_SWITCH = (SwitchLinear, QuantizedSwitchLinear)
_WRONG = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
)
"""What files that do not fit make MLX raise."""


class _Place(NamedTuple):
    """Where a layer hangs: in a module or list, under a name or number."""

    holder: Any
    key: Any

    def put(self, layer: Any) -> None:
        self.holder[self.key] = layer


class _Layer(NamedTuple):
    place: _Place
    own: Any
    adapted: Any


class Adapters:
    """Exchanges a model's layers for those of an adapter, and back.

    Args:
        layers: of each adapter.
        nbytes: memory that all of them take.
    """

    def __init__(self, layers: Mapping[str, list[_Layer]], nbytes: int) -> None:
        self._layers = layers
        self._used = ""
        self.nbytes = nbytes

    def use(self, name: str) -> None:
        """From here on the model computes with this adapter; with none where `name` is empty.

        What was begun before is not changed, even where it has not been computed yet.
        """
        if name == self._used:
            return
        for layer in self._layers.get(self._used, ()):
            layer.place.put(layer.own)
        self._used = ""
        for layer in self._layers[name] if name else ():
            layer.place.put(layer.adapted)
        self._used = name


def load_adapters(model: Any, folders: Mapping[str, str], dtype: Any) -> Adapters:
    """Load adapters, each from a folder as mlx-lm writes it; the model is left as it is.

    Args:
        model: an mlx-lm model, which need not be evaluated.
        folders: by the adapters' names.
        dtype: to cast them to; None: as they are.

    Raises:
        LoadError: code `adapter_refused`; one of them does not fit the model.
    """
    layers: dict[str, list[_Layer]] = {}
    nbytes = 0
    for name, folder in folders.items():
        try:
            layers[name], size = _load(model, Path(folder), dtype)
        except LmxError as error:
            raise _refused(name, error.message) from None
        except _WRONG as error:
            if is_out_of_memory(error):  # no fault of the adapter's
                raise LoadError(f"the adapter '{name}' cannot be loaded: {error}") from error
            raise _refused(name, str(error).replace(folder, "its folder")) from error
        nbytes += size
    return Adapters(layers, nbytes)


def _load(model: Any, folder: Path, dtype: Any) -> tuple[list[_Layer], int]:
    config = read_config(folder)
    method, scale = method_of(config), scale_of(config)
    weights: Any = mx.load(str(folder / WEIGHTS))
    by_layer: dict[str, dict[str, Any]] = {}
    for name, array in weights.items():
        path, _, leaf = name.rpartition(".")
        by_layer.setdefault(path, {})[leaf] = array if dtype is None else array.astype(dtype)
    layers = [_layer(model, path, own, method, scale) for path, own in sorted(by_layer.items())]
    arrays = [array for own in by_layer.values() for array in own.values()]
    mx.eval(arrays)
    if not all(bool(mx.isfinite(array).all().item()) for array in arrays):
        raise ValueError("it has numbers that are not finite")
    return layers, sum(int(array.nbytes) for array in arrays)


def _layer(model: Any, path: str, arrays: dict[str, Any], method: str, scale: float) -> _Layer:
    place = _find(model, path)
    own = place.holder[place.key]
    rank = int(arrays["lora_a"].shape[1])
    adapted = _around(own, path, method, rank, scale)
    for leaf, array in arrays.items():
        expected: Any = getattr(adapted, leaf, None)
        if not isinstance(expected, mx.array) or leaf not in ("lora_a", "lora_b", "m"):
            raise ValueError(f"the layer '{path[:120]}' has no place for its '{leaf[:40]}'")
        if array.shape != expected.shape:
            raise ValueError(
                f"'{path[:120]}.{leaf}' has the shape {tuple(array.shape)}, and "
                f"{tuple(expected.shape)} would fit this model"
            )
        setattr(adapted, leaf, array)
    return _Layer(place, own, adapted)


def _find(model: Any, path: str) -> _Place:
    """The place of a layer that the model has."""
    at: Any = model
    *parents, last = path.split(".")
    try:
        for part in parents:
            at = at[_key(at, part)]
        key = _key(at, last)
        found: Any = at[key]
    except (LookupError, TypeError, ValueError):
        found = key = None
    if isinstance(found, nn.Module):
        return _Place(at, key)
    raise ValueError(f"the model has no layer '{path[:120]}'")


def _key(holder: Any, part: str) -> Any:
    return int(part) if isinstance(holder, list) else part


def _around(own: Any, path: str, method: str, rank: int, scale: float) -> Any:
    """mlx-lm's layer that adds to one of the model's."""
    if method == "lora" and hasattr(own, "to_lora"):
        return own.to_lora(r=rank, scale=scale, dropout=0.0)
    kinds: list[tuple[tuple[Any, ...], Any]] = [(_LINEAR, DoRALinear)]
    if method == "lora":
        kinds = [(_LINEAR, LoRALinear), (_EMBEDDING, LoRAEmbedding), (_SWITCH, LoRASwitchLinear)]
    for types, kind in kinds:
        if isinstance(own, types):
            return kind.from_base(own, r=rank, scale=scale, dropout=0.0)
    raise ValueError(f"the layer '{path[:120]}' takes no {method} adapter")


def _refused(name: str, reason: str) -> LoadError:
    return LoadError(f"the adapter '{name}' cannot be used: {reason}", ADAPTER_REFUSED, name)
