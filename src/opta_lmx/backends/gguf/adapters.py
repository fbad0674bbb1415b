"""LoRA adapters of one model: their files are checked before llama.cpp sees them.

llama.cpp has one set of adapters for a whole batch, so requests of different adapters never run
at the same time (see `line.Line`). Every request says of each adapter whether it counts: one that
says nothing gets what the server was started with, on top of whatever its slot holds.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.backends.frames import Load
from opta_lmx.backends.gguf.completion import EngineAnswerError
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.gguf.slotfiles import model_identity
from opta_lmx.backends.protocol import ADAPTER_REFUSED, LoadError
from opta_lmx.core.errors import LmxError
from opta_lmx.models.adapters import GGUF_EMBEDDINGS
from opta_lmx.models.gguf_check import read_checked
from opta_lmx.models.gguf_header import GgufHeader
from opta_lmx.models.gguf_layout import GgufTensor, shown
from opta_lmx.models.gguf_types import F32

_ALPHA = "adapter.lora.alpha"
_INVOCATION = "adapter.alora.invocation_tokens"
_ENDS = (".lora_a", ".lora_b")
_MULTIPLIED = frozenset(
    "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()  # noqa: SIM905
)
"""Storage types that ggml can multiply on every kind of machine; with others it would abort."""

Shape = tuple[int, int, int, int]


class Adapters(msgspec.Struct, frozen=True):
    """The adapters that llama.cpp was started with; its ids are their places in `names`."""

    names: tuple[str, ...] = ()

    def chosen(self, name: str) -> list[dict[str, Any]] | None:
        """The field `lora` of a request of this adapter (empty: of the model as it is)."""
        if not self.names:
            return None
        scales = (float(each == name) for each in self.names)
        return [{"id": number, "scale": scale} for number, scale in enumerate(scales)]

    def prime(self, socket: str, slot: int, name: str) -> bool:
        """Have an idle slot count as one of this adapter's: what is restored to it then counts.

        llama.cpp forgets what a slot holds when a request of another adapter comes to it.
        """
        body = {
            "prompt": [0],
            "n_predict": 0,
            "id_slot": slot,
            "cache_prompt": False,
            "lora": self.chosen(name),
        }
        try:
            call(socket, "/completion", body)
        except (OSError, HTTPException, EngineAnswerError):
            return False
        return True


def refused(name: str, reason: str) -> LoadError:
    """The error for an adapter that cannot be used."""
    return LoadError(f"its adapter '{name}' cannot be used: {reason}", ADAPTER_REFUSED, name)


def check_adapters(spec: Load) -> int:
    """Check every adapter of `spec` against its model; return the bytes of them all.

    Raises:
        LoadError: `adapter_refused`, naming the adapter and what is wrong.
    """
    if not spec.adapters:
        return 0
    headers = read_checked(Path(spec.path))
    weights = {each.name: each for header in headers for each in header.tensors}
    architecture = headers[0].metadata.get("general.architecture")
    total = 0
    for name, path in spec.adapters.items():
        try:
            parts = read_checked(Path(path))
        except LmxError as error:
            raise refused(name, error.message) from error
        if reason := defect(parts, str(architecture), weights):
            raise refused(name, reason)
        total += sum(each.nbytes for each in parts[0].tensors)
    return total


def adapters_digest(spec: Load) -> str:
    """Names the adapters' files, so that states of other ones are never used; empty for none."""
    digest = hashlib.blake2b(digest_size=16)
    for name, path in spec.adapters.items():
        digest.update(f"{name}\0{model_identity(Path(path), '')}\0".encode())
    return f" {digest.hexdigest()}" if spec.adapters else ""


def defect(parts: list[GgufHeader], architecture: str, weights: Mapping[str, GgufTensor]) -> str:
    """Why an adapter's file does not fit a model; empty when it does.

    Args:
        parts: the file's headers: there must be one.
        architecture: the model's.
        weights: the model's tensors by name.
    """
    header, facts = parts[0], parts[0].metadata
    if len(parts) > 1:
        return "it is split into several files"
    if facts.get("general.type") != "adapter" or facts.get("adapter.type") != "lora":
        return "the file is no LoRA adapter"
    if facts.get("general.architecture") != architecture:
        return f"it is for '{facts.get('general.architecture')}', the model is '{architecture}'"
    if _INVOCATION in facts or _INVOCATION in header.array_lengths:
        return "it counts from an invocation on only, which is not supported"
    alpha = facts.get(_ALPHA, 0.0)
    plain = _ALPHA not in header.array_lengths and header.scalar_types.get(_ALPHA, F32) == F32
    if not plain or not isinstance(alpha, float) or not math.isfinite(alpha):
        return f"its {_ALPHA} is no finite 32-bit float"
    return _misfit(header, weights)


def _misfit(header: GgufHeader, weights: Mapping[str, GgufTensor]) -> str:
    pairs: dict[str, dict[str, GgufTensor]] = {}
    for tensor in header.tensors:
        name, end = tensor.name[:-7], tensor.name[-7:]
        if end not in _ENDS:
            return f"its tensor {shown(tensor.name)} is no part of a LoRA"
        if tensor.type_name not in _MULTIPLIED:
            return f"its tensor {shown(tensor.name)} is of type {tensor.type_name}"
        pairs.setdefault(name, {})[end] = tensor
    if not pairs:
        return "it has no tensors"
    return next(_misfits(pairs, weights), "")


def _misfits(
    pairs: Mapping[str, Mapping[str, GgufTensor]], weights: Mapping[str, GgufTensor]
) -> Iterator[str]:
    for name, pair in pairs.items():
        if len(pair) < len(_ENDS):
            yield f"half of its pair for {shown(name)} is missing"
        elif name not in weights:
            yield f"the model has no tensor {shown(name)}"
        elif len(weights[name].shape) == 1:  # llama.cpp passes over it, without a word
            yield f"the model's tensor {shown(name)} is no matrix"
        elif not _fits(name, *(_shape(each) for each in (*_both(pair), weights[name]))):
            yield f"its tensors for {shown(name)} have other shapes than the model's"


def _both(pair: Mapping[str, GgufTensor]) -> tuple[GgufTensor, GgufTensor]:
    return pair[_ENDS[0]], pair[_ENDS[1]]


def _fits(name: str, a: Shape, b: Shape, weight: Shape) -> bool:
    """Whether b * a has the weight's shape: fastest dimension first."""
    if a[2:] != weight[2:] or b[2:] != weight[2:]:
        return False
    if name == GGUF_EMBEDDINGS:  # a row is looked up in it, so the two are the other way round
        return (b[1], a[1]) == weight[:2] and a[0] == b[0]
    return (a[0], b[1]) == weight[:2] and a[1] == b[0]


def _shape(tensor: GgufTensor) -> Shape:
    one, two, three, four = (*tensor.shape, 1, 1, 1, 1)[:4]
    return one, two, three, four
