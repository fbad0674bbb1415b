"""The simulated encoder: every byte is a token, and a vector counts the letters of its text.

Options (`Load.options`): `encode_ms` for each batch, `load_ms`, `fail_load`, and faults:
`die_at_batch`, `hang_at_batch`, `refuse_at_batch`. Zero or absent turns a fault off.
"""

import math
import os
import struct
from collections.abc import Sequence

import msgspec

from opta_lmx.backends.embedding.encoder import Encoded, EncodeError, Input, InputError, Pair
from opta_lmx.backends.frames import Load, Ready
from opta_lmx.backends.protocol import Emit, LoadError
from opta_lmx.core.clock import block_for

DIMENSIONS = 26
_SHORTER = (8, 16)
_FOREVER_S = 3600.0
_A = ord("a")


class SimEncoderOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the simulation plays."""

    encode_ms: float = 0.0
    load_ms: float = 0.0
    fail_load: str = ""
    die_at_batch: int = 0
    hang_at_batch: int = 0
    refuse_at_batch: int = 0


class SimEncoder:
    """Makes scores when `rerank` (the share of the query's letters found), vectors otherwise."""

    def __init__(self, options: SimEncoderOptions, window: int, *, rerank: bool) -> None:
        self._options = options
        self._window = window
        self._rerank = rerank
        self._batches = 0

    def read(self, value: Input, cut_to: int | None) -> Encoded:
        """Take bytes as tokens. Raises InputError."""
        limit = None if cut_to is None else min(cut_to, self._window)
        if isinstance(value, Pair):
            query, document = value.query.encode(), value.document.encode()[:limit]
            return Encoded(len(query) + len(document), tuple(query + document), len(query))
        ids = value if isinstance(value, tuple) else tuple(value.encode())
        if any(token > 255 for token in ids):
            raise InputError("token ids of this model are 0 to 255")
        return Encoded(len(ids[:limit]), ids[:limit])

    def encode(self, batch: Sequence[Encoded]) -> list[bytes]:
        """Play the script, then count letters."""
        self._batches += 1
        block_for(self._options.encode_ms / 1000)
        match self._batches:
            case self._options.die_at_batch:
                os._exit(9)
            case self._options.hang_at_batch:
                block_for(_FOREVER_S)
            case self._options.refuse_at_batch:
                raise EncodeError("scripted refusal")
            case _:
                pass
        return [_score(item) if self._rerank else _vector(item.ids) for item in batch]


def open_encoder(spec: Load, emit: Emit) -> tuple[SimEncoder, Ready]:  # noqa: ARG001  (`OpenEncoder`)
    """Take the script from the options. Raises LoadError."""
    options = msgspec.convert(spec.options, SimEncoderOptions)
    block_for(options.load_ms / 1000)
    if options.fail_load:
        raise LoadError(options.fail_load)
    rerank = spec.kind == "rerank"
    window = spec.context or 512
    ready = Ready(
        context=window,
        slots=spec.slots,
        engine="sim",
        dimensions=1 if rerank else DIMENSIONS,
        shorter=() if rerank else _SHORTER,
    )
    return SimEncoder(options, window, rerank=rerank), ready


def _vector(ids: Sequence[int]) -> bytes:
    counts = [0.0] * DIMENSIONS
    for token in ids:
        if _A <= token < _A + DIMENSIONS:
            counts[token - _A] += 1
    length = math.sqrt(sum(count * count for count in counts)) or 1.0
    return struct.pack(f"<{DIMENSIONS}f", *(count / length for count in counts))


def _score(item: Encoded) -> bytes:
    wanted, found = set(item.ids[: item.second]), set(item.ids[item.second :])
    return struct.pack("<f", len(wanted & found) / max(1, len(wanted)))
