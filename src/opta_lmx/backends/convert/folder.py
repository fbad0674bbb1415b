"""Writes the whole MLX folder of a GGUF model."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from opta_lmx.backends.convert.architectures import ModelPlan, TensorPlan, plan_model
from opta_lmx.backends.convert.errors import ConvertError
from opta_lmx.backends.convert.safetensors import Dtype, SafetensorsWriter
from opta_lmx.backends.convert.source import Array, GgufSource
from opta_lmx.backends.convert.tokenizer import BuiltTokenizer, build_tokenizer

Report = Callable[[int, int], None]
"""Called with bytes of the GGUF's tensors done and in all."""

_SPARE_BYTES = 64 << 20
"""Disk space the tokenizer and configuration may take beside the weights."""
_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


def convert(gguf: Path, out: Path, dtype: Dtype, report: Report) -> None:
    """Convert `gguf` into the folder `out`; its files appear there when all are complete.

    Raises:
        ConvertError: the model is not of a kind that can be converted, or the disk is too small.
        LmxError: the file is not sound GGUF.
        OSError: reading or writing failed.
    """
    draft = out / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with GgufSource(gguf) as source:
            plan = plan_model(source)
            tokenizer = build_tokenizer(source)
            _write_texts(draft, source, plan, tokenizer, dtype)
            _write_weights(draft / "model.safetensors", source, plan, dtype, report)
        for file in draft.iterdir():
            file.replace(out / file.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_texts(
    folder: Path, source: GgufSource, plan: ModelPlan, built: BuiltTokenizer, dtype: Dtype
) -> None:
    """Everything but the weights."""
    built.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    context = plan.config["max_position_embeddings"]
    _write_json(folder / "tokenizer_config.json", built.config | {"model_max_length": context})
    tokens = {"bos_token_id": built.bos_id, "eos_token_id": built.eos_ids}
    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    _write_json(folder / "config.json", plan.config | tokens | {"torch_dtype": names[dtype]})
    _write_json(folder / "generation_config.json", tokens | _sampling(source))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), "utf-8")


def _sampling(source: GgufSource) -> dict[str, float]:
    """The sampling defaults a header may recommend."""
    found: dict[str, float] = {}
    for key, name in _SAMPLING.items():
        if source.has(f"general.sampling.{key}"):
            value = source.number(f"general.sampling.{key}")
            found[name] = int(value) if name == "top_k" else value
    return found


def _write_weights(
    path: Path, source: GgufSource, plan: ModelPlan, dtype: Dtype, report: Report
) -> None:
    shapes = {tensor.name: _shape(source, tensor) for tensor in plan.tensors}
    total = sum(source.tensors[tensor.source].nbytes for tensor in plan.tensors)
    done = 0
    with SafetensorsWriter(path, shapes, dtype) as writer:
        free = shutil.disk_usage(path.parent).free
        if writer.size + _SPARE_BYTES > free:
            text = f"the conversion takes {writer.size >> 20} MiB, the disk has {free >> 20} MiB"
            raise ConvertError("insufficient_disk", text)
        for tensor in plan.tensors:
            writer.write(_pieces(source, tensor))
            done += source.tensors[tensor.source].nbytes
            report(done, total)


def _shape(source: GgufSource, tensor: TensorPlan) -> tuple[int, ...]:
    """Slowest dimension first, as MLX has it."""
    return tuple(reversed(source.tensors[tensor.source].shape))


def _pieces(source: GgufSource, tensor: TensorPlan) -> Iterator[Array]:
    for rows in source.rows(tensor.source, tensor.multiple):
        yield rows if tensor.change is None else tensor.change(rows)
