"""Opens a GGUF model that makes vectors or scores: `Encoder` of the shared engine."""

import base64
import math
import struct
from collections import defaultdict
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.backends.embedding.encoder import Encoded, EncodeError, Input, InputError, Pair
from opta_lmx.backends.frames import Announce, Load, Ready
from opta_lmx.backends.gguf.completion import EngineAnswerError
from opta_lmx.backends.gguf.embedding.tokens import LlamaTokens
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.gguf.machine import this_machine
from opta_lmx.backends.gguf.plan import GgufOptions, Machine, Plan
from opta_lmx.backends.gguf.server import gpu_memory, start_server
from opta_lmx.backends.protocol import ADAPTER_REFUSED, CANARY_FAILED, Emit, LoadError
from opta_lmx.core.errors import LmxError
from opta_lmx.models.description import ModelInfo
from opta_lmx.models.gguf_header import read_gguf_header
from opta_lmx.models.gguf_info import ENCODERS, read_gguf_info

LONGEST_WINDOW = 8192
"""Used unless a context is configured: llama.cpp takes an input whole, and reserves for that."""
UNKNOWN_WINDOW = 512
"""Used for a model whose file names no trained length."""
_ENCODER_ROWS = 8
_DECODER_ROWS = 2
"""Inputs llama.cpp takes at once; a decoder keeps a cache for each."""
_LOAD_S = 120.0
_PROBABILITIES = frozenset({"qwen3", "qwen3vl"})
"""Rerankers for which llama.cpp itself turns the head's answer into a probability."""


class GgufEncoder:
    """One model in llama.cpp; makes scores when `rerank`, vectors otherwise.

    Args:
        socket: llama.cpp's.
        tokens: reads inputs.
        rerank: whether it scores pairs.
        squash: whether scores still have to be brought between 0 and 1.
    """

    def __init__(self, socket: str, tokens: LlamaTokens, *, rerank: bool, squash: bool) -> None:
        self._socket = socket
        self._tokens = tokens
        self._rerank = rerank
        self._squash = squash

    def read(self, value: Input, cut_to: int | None) -> Encoded:
        """Tokenize one input. Raises InputError."""
        return self._tokens.read(value, cut_to)

    def encode(self, batch: Sequence[Encoded]) -> list[bytes]:
        """Send the whole batch in one call, or one for each query. Raises EncodeError."""
        try:
            return self._scores(batch) if self._rerank else self._vectors(batch)
        except (EngineAnswerError, OSError, HTTPException) as error:
            raise EncodeError(f"llama.cpp: {error}") from error

    def _vectors(self, batch: Sequence[Encoded]) -> list[bytes]:
        body = {
            "input": [item.ids for item in batch],
            "encoding_format": "base64",
            "embd_normalize": 2,
        }
        found: list[dict[str, Any]] = call(self._socket, "/v1/embeddings", body)["data"]
        if len(found) != len(batch):
            raise EncodeError("llama.cpp answered with another number of vectors")
        found.sort(key=lambda item: item["index"])
        return [base64.b64decode(item["embedding"]) for item in found]

    def _scores(self, batch: Sequence[Encoded]) -> list[bytes]:
        scores = [0.0] * len(batch)
        for query, places in _by_query(batch).items():
            documents = [item.pair.document for item in (batch[p] for p in places) if item.pair]
            body = {"query": query, "documents": documents}
            for result in call(self._socket, "/rerank", body)["results"]:
                score = float(result["relevance_score"])
                scores[places[result["index"]]] = _sigmoid(score) if self._squash else score
        return [struct.pack("<f", score) for score in scores]


def open_encoder(spec: Load, emit: Emit) -> tuple[GgufEncoder, Ready]:
    """Load the file at `spec.path` and try it once.

    Raises:
        LoadError: the options, the file or llama.cpp say no; the message says why.
    """
    emit(Announce("load", _LOAD_S))
    if spec.adapters:
        raise LoadError("a model that makes vectors takes no adapters", ADAPTER_REFUSED)
    try:
        options = msgspec.convert(spec.options, GgufOptions)
        info = read_gguf_info(Path(spec.path))
        named = _names_pooling(Path(spec.path), info)
    except msgspec.ValidationError as error:
        raise LoadError(f"the options of the gguf backend are wrong: {error}") from error
    except LmxError as error:
        raise LoadError(error.message) from error
    rerank = spec.kind == "rerank"
    plan = plan_encoder(info, spec, this_machine(gpu_memory()), named=named)
    socket, engine = start_server(spec.path, spec.runtime_dir, plan, options)

    def ask(endpoint: str, payload: Any) -> Any:
        return call(socket, endpoint, payload)

    try:
        tokens = LlamaTokens(
            ask,
            window=plan.context,
            vocabulary=info.vocabulary,
            around_pair=_around_pair(ask) if rerank else 0,
        )
        squash = info.architecture not in _PROBABILITIES
        encoder = GgufEncoder(socket, tokens, rerank=rerank, squash=squash)
        width = _try(encoder, Pair("a", "b") if rerank else "a")
    except (EngineAnswerError, EncodeError, InputError) as error:
        raise LoadError(f"the model does not run: {error}", CANARY_FAILED) from error
    ready = Ready(
        context=plan.context,
        slots=spec.slots,
        weights_bytes=info.weights_bytes,
        engine=engine,
        dimensions=width,
    )
    return encoder, ready


def plan_encoder(info: ModelInfo, spec: Load, machine: Machine, *, named: bool) -> Plan:
    """How the server is started: an input must fit one batch whole.

    Args:
        info: the model.
        spec: what is asked for.
        machine: what it runs on.
        named: whether the file says how its vectors are made.
    """
    trained = info.context_length or UNKNOWN_WINDOW
    window = min(spec.context or LONGEST_WINDOW, trained)
    rows = _ENCODER_ROWS if info.architecture in ENCODERS else _DECODER_ROWS
    return Plan(
        context=window,
        slots=rows,
        cells=window * rows,
        shared=False,
        batch=window,
        threads=spec.threads or (1 if machine.cores <= 2 else machine.cores),
        cell_bytes=0,
        checkpoints=0,
        pooling="rank" if spec.kind == "rerank" else "own" if named else "mean",
    )


def _names_pooling(path: Path, info: ModelInfo) -> bool:
    key = f"{info.architecture}.pooling_type"
    return bool(read_gguf_header(path).metadata.get(key))


def _around_pair(ask: Any) -> int:
    """Tokens a pair has beside its texts': llama.cpp counts the whole of a short one."""
    whole = ask("/rerank", {"query": "a", "documents": ["b"]})["usage"]["total_tokens"]
    own = [ask("/tokenize", {"content": text})["tokens"] for text in ("a", "b")]
    return int(whole) - sum(len(ids) for ids in own)


def _try(encoder: GgufEncoder, value: Input) -> int:
    """Width of what the model makes of a short input."""
    (made,) = encoder.encode([encoder.read(value, None)])
    numbers = struct.unpack(f"<{len(made) // 4}f", made)
    if not all(math.isfinite(number) for number in numbers):
        message = "the weights give no finite numbers; they may be corrupt"
        raise LoadError(message, CANARY_FAILED)
    return len(numbers)


def _by_query(batch: Sequence[Encoded]) -> dict[str, list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(batch):
        places[item.pair.query if item.pair else ""].append(place)
    return places


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
