"""Opens an encoder folder on MLX: `Encoder` of the shared engine."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (mlx and numpy are only partly typed here)

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from opta_lmx.backends.embedding.encoder import Encoded, Input, InputError, Pair
from opta_lmx.backends.frames import Announce, Load, Ready
from opta_lmx.backends.mlx.embedding.folder import EncoderFolder, read_encoder_folder
from opta_lmx.backends.mlx.embedding.network import Network, normalised, pool, score
from opta_lmx.backends.mlx.embedding.tokens import EncoderTokens
from opta_lmx.backends.mlx.embedding.weights import Weights, check_head, read_weights
from opta_lmx.backends.mlx.loader import dtype_of, hold_to, read_options
from opta_lmx.backends.protocol import ADAPTER_REFUSED, CANARY_FAILED, Emit, LoadError
from opta_lmx.backends.shortage import is_out_of_memory

_LOAD_S = 60.0


class MlxEncoder:
    """One encoder in memory; makes scores when `rerank`, vectors otherwise."""

    def __init__(
        self, folder: EncoderFolder, tokens: EncoderTokens, weights: Weights, *, rerank: bool
    ) -> None:
        self._folder = folder
        self._tokens = tokens
        self._weights = weights
        self._rerank = rerank
        self._network = Network(weights, folder.shape)

    def read(self, value: Input, cut_to: int | None) -> Encoded:
        """Tokenize one input. Raises InputError."""
        return self._tokens.read(value, cut_to)

    def encode(self, batch: Sequence[Encoded]) -> list[bytes]:
        """Run the network once for the whole batch."""
        longest = max(item.tokens for item in batch)
        padded = np.zeros((len(batch), longest), np.int32)
        for row, item in enumerate(batch):
            padded[row, : item.tokens] = item.ids
        lengths = mx.array([item.tokens for item in batch])
        seconds = mx.array([item.second or longest for item in batch])
        x = self._network(mx.array(padded), lengths, seconds)
        made = score(self._weights, x) if self._rerank else pool(x, lengths, self._folder.pooling)
        if self._folder.normalise and not self._rerank:
            made = normalised(made)
        rows: Any = np.array(made.astype(mx.float32)).astype("<f4")
        return [row.tobytes() for row in rows]


def open_encoder(spec: Load, emit: Emit) -> tuple[MlxEncoder, Ready]:
    """Load the folder at `spec.path` and try it once.

    Raises:
        LoadError: the folder is damaged, of a family that is not supported, or gives no numbers.
    """
    emit(Announce("load", _LOAD_S))
    if spec.adapters:
        raise LoadError("a model that makes no text takes no adapters", ADAPTER_REFUSED)
    options = read_options(spec.options)
    hold_to(options)
    folder = read_encoder_folder(Path(spec.path))
    weights = read_weights(folder.path, folder.shape, dtype_of(options))
    rerank = spec.kind == "rerank"
    if rerank:
        check_head(weights, folder.shape.hidden)
    positions = weights["embeddings.position_embeddings.weight"].shape[0]
    most = min(folder.positions, positions - folder.shape.first_position)
    window = min(spec.context, most) if spec.context else min(folder.window, most)
    tokens = EncoderTokens(folder, window)
    encoder = MlxEncoder(folder, tokens, weights, rerank=rerank)
    _try(encoder, Pair("a", "b") if rerank else "a")
    ready = Ready(
        context=window,
        slots=spec.slots,
        weights_bytes=sum(int(array.nbytes) for array in weights.values()),
        engine=f"mlx {version('mlx')}, {mx.default_device().type.name}",
        dimensions=1 if rerank else folder.shape.hidden,
        shorter=() if rerank else folder.shorter,
    )
    return encoder, ready


def _try(encoder: MlxEncoder, value: Input) -> None:
    try:
        made = encoder.encode([encoder.read(value, None)])
    except (InputError, MemoryError, RuntimeError, ValueError) as error:
        code = "load_failed" if is_out_of_memory(error) else CANARY_FAILED
        raise LoadError(f"the model does not run: {error}", code) from error
    if not np.isfinite(np.frombuffer(made[0], "<f4")).all():
        message = "the weights give no finite numbers; they may be corrupt"
        raise LoadError(message, CANARY_FAILED)
