"""The check a LoRA adapter passes before an engine sees it: headers only, nothing is loaded."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.models.description import Format, ModelInfo
from opta_lmx.models.fingerprint import fingerprint
from opta_lmx.models.gguf_check import read_checked
from opta_lmx.models.json_files import parse_object, read_bounded
from opta_lmx.models.safetensors_header import read_safetensors_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapters.safetensors"
MAX_RANK = 4096
GGUF_EMBEDDINGS = "token_embd.weight"
_MAX_CONFIG_BYTES = 1 << 20
_MOST_SCALE = 1e4
_FLOATS = {"F32", "F16", "BF16"}
_LAYER = re.compile(r"(?:^|\.)(?:layers|blk)\.(\d+)\.")
_Shape = tuple[int, ...]


class AdapterInfo(msgspec.Struct, frozen=True):
    """Facts from an adapter's headers.

    Attributes:
        version: of its files; another one after any change.
        weights_bytes: tensor data.
        parameters: numbers in it.
        rank: the largest of its layers'.
    """

    version: str
    weights_bytes: int
    parameters: int
    rank: int


def format_of(path: Path) -> Format:
    """What an adapter is made for, by its name alone: a `.gguf` file or a folder for MLX."""
    return "gguf" if path.suffix.lower() == ".gguf" else "mlx"


def adapter_files(path: Path, kind: Format) -> tuple[Path, ...]:
    """The files of an adapter that are read.

    Raises:
        LmxError: INVALID_REQUEST `adapter_refused`; one of them is missing.
    """
    files = (path,) if kind == "gguf" else (path / CONFIG, path / WEIGHTS)
    for file in files:
        if not file.is_file():
            raise bad_adapter(f"there is no file {file.name}")
    return files


def read_adapter(path: Path, kind: Format, model: ModelInfo) -> AdapterInfo:
    """Hold an adapter's files against the model it is meant for.

    Shapes are held against each other here, and against the model's where it is loaded.

    Raises:
        LmxError: INVALID_REQUEST `adapter_refused`; the message says what is wrong.
    """
    files = adapter_files(path, kind)
    try:
        version = fingerprint(files)
        shapes, size = _gguf(path, model) if kind == "gguf" else _mlx(path)
    except OSError as error:
        raise bad_adapter(f"it cannot be read ({error.strerror})") from None
    except LmxError as error:
        raise bad_adapter(error.message.removesuffix(".")) from None
    numbers = sum(math.prod(shape) for shape in shapes.values())
    if model.parameters and numbers > model.parameters:
        raise bad_adapter("it is larger than the model itself")
    _check_layers(shapes, model)
    return AdapterInfo(version, size, numbers, max(_ranks(shapes, kind)))


def version_of(path: Path, kind: Format) -> str:
    """The version of an adapter's files as they are now; empty where they cannot be read."""
    try:
        return fingerprint(adapter_files(path, kind))
    except (OSError, LmxError):
        return ""


def bad_adapter(reason: str) -> LmxError:
    """The error every defect of an adapter becomes."""
    return invalid(f"{reason}.", code="adapter_refused")


def scale_of(config: Mapping[str, Any]) -> float:
    """What the low-rank term is multiplied by, from an MLX adapter's configuration.

    Raises:
        LmxError: INVALID_REQUEST `adapter_refused`.
    """
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise bad_adapter(f"its {CONFIG} has no 'lora_parameters', so it was not made by mlx-lm")
    scale = cast("dict[str, object]", parameters).get("scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise bad_adapter(f"its {CONFIG} gives no number as 'scale'")
    if not (math.isfinite(scale) and abs(scale) <= _MOST_SCALE):
        raise bad_adapter(f"its {CONFIG} gives a 'scale' beyond reason")
    return float(scale)


def method_of(config: Mapping[str, Any]) -> str:
    """`lora` or `dora`, from an MLX adapter's configuration.

    Raises:
        LmxError: INVALID_REQUEST `adapter_refused`; it was trained in another way.
    """
    method = config.get("fine_tune_type", "lora")
    if method == "full":
        raise bad_adapter("it is a whole fine-tuned model: fuse it and add it as a model")
    if method not in ("lora", "dora"):
        raise bad_adapter(f"it was trained by a method that is not known ({str(method)[:40]!r})")
    return str(method)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of an MLX adapter's folder. Raises LmxError where it cannot be read."""
    return parse_object(read_bounded(path / CONFIG, _MAX_CONFIG_BYTES), CONFIG)


def _mlx(path: Path) -> tuple[dict[str, _Shape], int]:
    config = read_config(path)
    method = method_of(config)
    scale_of(config)
    header = read_safetensors_header(path / WEIGHTS)
    for name, tensor in header.tensors.items():
        if tensor.dtype not in _FLOATS:
            raise bad_adapter(f"its tensor {_shown(name)} is no array of floats")
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    if method == "dora":
        pairs = {name for name in shapes if name.endswith(".lora_a")}
        lonely = [
            name
            for name in shapes
            if name.endswith(".m") and f"{name.removesuffix('.m')}.lora_a" not in pairs
        ]
        if lonely:
            raise bad_adapter(f"its tensor {_shown(lonely[0])} belongs to no layer")
        paired = {name: shape for name, shape in shapes.items() if not name.endswith(".m")}
    else:
        paired = shapes
    _check_pairs(paired, "mlx")
    return shapes, sum(tensor.nbytes for tensor in header.tensors.values())


def _gguf(path: Path, model: ModelInfo) -> tuple[dict[str, _Shape], int]:
    headers = read_checked(path)
    said = headers[0].metadata
    if len(headers) > 1 or said.get("general.type") != "adapter":
        raise bad_adapter("it is no adapter but a model or something else")
    if said.get("adapter.type", "lora") != "lora":
        raise bad_adapter("it is an adapter of another kind than LoRA")
    architecture = said.get("general.architecture")
    if architecture != model.architecture:
        raise bad_adapter(
            f"it was made for the architecture {_shown(str(architecture))}, "
            f"the model's is '{model.architecture}'"
        )
    alpha = said.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise bad_adapter("its adapter.lora.alpha is no finite number")
    shapes = {tensor.name: tensor.shape for tensor in headers[0].tensors}
    _check_pairs(shapes, "gguf")
    return shapes, sum(tensor.nbytes for tensor in headers[0].tensors)


def _check_pairs(shapes: Mapping[str, _Shape], kind: Format) -> None:
    """Every tensor is half of a pair whose product has a rank in between."""
    if not shapes:
        raise bad_adapter("it has no tensors")
    for name, shape in shapes.items():
        stem, _, half = name.rpartition(".")
        other = {"lora_a": "lora_b", "lora_b": "lora_a"}.get(half)
        if not stem or other is None or f"{stem}.{other}" not in shapes:
            raise bad_adapter(f"its tensor {_shown(name)} is no half of a LoRA pair")
        if half != "lora_a":
            continue
        if not 1 <= _rank(stem, shape, shapes[f"{stem}.lora_b"], kind) <= MAX_RANK:
            raise bad_adapter(f"the shapes of its pair {_shown(stem)} do not fit each other")


def _ranks(shapes: Mapping[str, _Shape], kind: Format) -> Iterable[int]:
    for name, shape in shapes.items():
        if name.endswith(".lora_a"):
            stem = name.removesuffix(".lora_a")
            yield _rank(stem, shape, shapes[f"{stem}.lora_b"], kind)


def _rank(stem: str, a: _Shape, b: _Shape, kind: Format) -> int:
    """What the two are joined by; 0 where they do not fit each other."""
    if not a or not b or min(*a, *b) < 1:
        return 0
    return _gguf_rank(stem, a, b) if kind == "gguf" else _mlx_rank(a, b)


def _mlx_rank(a: _Shape, b: _Shape) -> int:
    if len(a) == len(b) == 2:
        return a[1] if a[1] == b[0] else 0
    # For each expert, which are counted first.
    experts = len(a) == len(b) == 3 and a[0] == b[0]
    return a[1] if experts and a[1] == b[2] else 0


def _gguf_rank(stem: str, a: _Shape, b: _Shape) -> int:
    """The fastest dimension comes first, the experts last; those of 1 at the end may lack."""
    a, b = (*a, 1, 1, 1)[:4], (*b, 1, 1, 1)[:4]
    # A row is looked up in the embeddings, so there the first is the other way round.
    rank = a[0] if stem == GGUF_EMBEDDINGS else a[1]
    return rank if rank == b[0] and a[2:] == b[2:] else 0


def _check_layers(shapes: Mapping[str, _Shape], model: ModelInfo) -> None:
    for name in shapes:
        found = _LAYER.search(name)
        if found and model.layers and int(found[1][:9]) >= model.layers:
            raise bad_adapter(
                f"it has a layer {found[1][:9]}, beyond the {model.layers} of the model"
            )


def _shown(name: str) -> str:
    return repr(name[:80])
