"""Turns a folder of safetensors and JSON files into a `ModelInfo`."""

import os
from collections import Counter
from pathlib import Path
from typing import cast

from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.models.config_json import FolderConfig, read_folder_config, short_dtype
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.json_files import bad_config, read_object
from opta_lmx.models.safetensors_header import SafeTensor, read_safetensors_header

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tiktoken.model",
)
MAX_SHARDS = 4096


def read_folder_info(folder: Path) -> ModelInfo:
    """Read and validate a model folder.

    Raises:
        LmxError: INVALID_REQUEST `invalid_config`, `invalid_safetensors`, `no_weights`,
            `pickle_refused`; FORBIDDEN `remote_code_refused`.
    """
    config = read_folder_config(folder)
    tensors: dict[str, SafeTensor] = {}
    for path in weight_files(folder):
        tensors.update(read_safetensors_header(path).tensors)
    if not tensors:
        raise no_weights("it holds no tensors")
    _check_index(folder, tensors)
    if not any((folder / name).is_file() for name in TOKENIZERS) and not any(
        folder.glob("*.tiktoken")
    ):
        raise bad_config("tokenizer", "the folder has none")
    return ModelInfo(
        format="mlx",
        architecture=config.model_type or config.architecture,
        context_length=config.context_length,
        quantisation=_quantisation(config, tensors),
        parameters=_parameters(config, tensors),
        size_bytes=_folder_bytes(folder),
        weights_bytes=sum(tensor.nbytes for tensor in tensors.values()),
        layers=config.layers,
        vocabulary=config.vocabulary,
        kv=config.kv,
        chat_template=config.chat_template,
        sampling=config.sampling,
        embedding=config.embedding,
        rerank=config.rerank,
    )


def no_weights(reason: str) -> LmxError:
    """The error for a model without usable weights."""
    return invalid(f"The model has no weights that can be used: {reason}.", code="no_weights")


def refuse_pickles() -> LmxError:
    """The error for weights that only exist as pickles."""
    return LmxError(
        ErrorKind.FORBIDDEN,
        "The model's weights are pickles (.bin, .pt), which can run code when read. "
        "Use a version with safetensors or GGUF weights.",
        code="pickle_refused",
    )


def weight_files(folder: Path) -> list[Path]:
    """The files an MLX loader takes: `model*.safetensors`.

    Raises:
        LmxError: INVALID_REQUEST `no_weights`; FORBIDDEN `pickle_refused`.
    """
    found = sorted(folder.glob("model*.safetensors"))[: MAX_SHARDS + 1]
    if len(found) > MAX_SHARDS:
        raise no_weights(f"more than {MAX_SHARDS} files")
    if found:
        return found
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        raise refuse_pickles()
    raise no_weights("there is no model*.safetensors")


def _check_index(folder: Path, tensors: dict[str, SafeTensor]) -> None:
    """Every tensor that the index promises must be there, or a shard is missing."""
    promised = read_object(folder / INDEX).get("weight_map")
    if promised is None:
        return
    if not isinstance(promised, dict):
        raise bad_config(INDEX, "its weight_map is no object")
    missing = set(cast(dict[str, object], promised)) - set(tensors)
    if missing:
        raise no_weights(f"{len(missing)} tensors of its index are in no file")


def _quantisation(config: FolderConfig, tensors: dict[str, SafeTensor]) -> str:
    if config.quantisation:
        return config.quantisation
    if config.dtype:
        return short_dtype(config.dtype)
    kinds: Counter[str] = Counter()
    for tensor in tensors.values():
        kinds[tensor.dtype] += tensor.nbytes
    return kinds.most_common(1)[0][0].lower()


def _parameters(config: FolderConfig, tensors: dict[str, SafeTensor]) -> int:
    """Weights before packing: quantised ones lie in 32-bit words, with scales beside them."""
    total = 0
    for name, tensor in tensors.items():
        stem = name.rpartition(".")[0]
        packed = tensors.get(f"{stem}.weight")
        if name.endswith((".scales", ".biases")) and packed is not None and packed.dtype == "U32":
            continue
        if tensor.dtype == "U32" and config.bits:
            total += tensor.elements * 32 // config.bits
        else:
            total += tensor.elements
    return total


def _folder_bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
