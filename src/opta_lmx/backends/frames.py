"""The frame protocol between the front and one worker: msgpack structs behind a 4-byte length.

Front to worker: `Load` (first and once), `Prepare`, `Submit`, `Cancel`, `Tune`.
Worker to front: `Ready`, `Preparing`, `Prepared`, `Announce`, `Step`, `Released`, `Fault`, `Log`.
Closing the socket ends the worker.
"""

import struct
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from opta_lmx.core.types import FinishReason, Prompt, SamplingParams, TopLogprob

MAX_FRAME_BYTES = 256 * 1024 * 1024
_HEADER = struct.Struct("<I")


class Load(msgspec.Struct, tag=True, frozen=True):
    """What to load. `path` is the GGUF file or the MLX folder; unused by `sim`.

    `context` is the tokens one request may use (0: as the model says); `slots` the rows that
    run at once; `threads` 0 means the engine's default; `options` are the adapter's own,
    checked by it.
    """

    model: str
    backend: Literal["mlx", "gguf", "sim"]
    path: str = ""
    context: int = 0
    slots: int = 8
    threads: int = 0
    template: str | None = None
    runtime_dir: str = ""
    options: dict[str, Any] = {}


class Prepare(msgspec.Struct, tag=True, frozen=True):
    """Render and tokenize a prompt."""

    id: int
    prompt: Prompt


class Submit(msgspec.Struct, tag=True, frozen=True):
    """Start generating. Sampling is fully resolved: no engine default applies."""

    id: int
    ids: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int
    top_logprobs: int | None = None


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Stop a request at any stage; tokens after the first `keep` are not wanted in any cache."""

    id: int
    keep: int | None = None


class Tune(msgspec.Struct, tag=True, frozen=True):
    """Change a live setting: the longest pause, in ms, a prefill may cause a running stream."""

    stall_target_ms: int


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The model is loaded: what it can hold and how it speaks.

    `context` is the usable window in tokens; `kv_bytes` the bytes available for caches (0:
    unknown); `weights_bytes` what the weights take; `tool_dialect` names a codec parser;
    `template_source` is `model`, `config` or `default`; `sampling` the model's own defaults.
    """

    context: int
    slots: int
    kv_bytes: int = 0
    weights_bytes: int = 0
    tool_dialect: str = "json"
    template_source: str = "model"
    supports_tools: bool = False
    sampling: SamplingParams = SamplingParams()
    engine: str = ""


class Preparing(msgspec.Struct, tag=True, frozen=True):
    """The text thread has begun with this prompt."""

    id: int


class Prepared(msgspec.Struct, tag=True, frozen=True):
    """The exact prompt tokens; `cuts` are offsets at which turns start; or an `error` text.

    `at_least` is set instead for a prompt so long that counting it exactly is not worth it.
    """

    id: int
    ids: tuple[int, ...] = ()
    cuts: tuple[int, ...] = ()
    at_least: int = 0
    error: str | None = None


class Announce(msgspec.Struct, tag=True, frozen=True):
    """The engine thread begins an operation and says how long it may take (watchdog input)."""

    op: str
    predicted_s: float


class TokenOut(msgspec.Struct, frozen=True, array_like=True):
    """One token of one request; `finish` is set on its last."""

    request: int
    id: int
    piece: bytes
    finish: FinishReason | None = None
    logprob: float | None = None
    top: tuple[TopLogprob, ...] | None = None


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A request's prompt begins to be processed; `cached` tokens of it need no work."""

    request: int
    cached: int


class Step(msgspec.Struct, tag=True, frozen=True):
    """One engine step for the whole batch: number `n`, duration, and everything it produced.

    `prefill` holds (request, done, total) for prompts in progress; `rows` is the batch width.
    """

    n: int
    ms: float
    tokens: tuple[TokenOut, ...] = ()
    started: tuple[Started, ...] = ()
    prefill: tuple[tuple[int, int, int], ...] = ()
    rows: int = 0
    kv_bytes: int = 0


class Released(msgspec.Struct, tag=True, frozen=True):
    """The slot of this request is free again, whatever ended it."""

    id: int


class Fault(msgspec.Struct, tag=True, frozen=True):
    """Something failed: one request (`id`), or the worker as a whole (`id` None, then exit).

    `code` is machine-readable: `load_failed`, `missing_extra`, `step_failed`, `bad_request`.
    """

    message: str
    code: str
    id: int | None = None


class Log(msgspec.Struct, tag=True, frozen=True):
    """A log line for the front to write."""

    level: str
    event: str
    fields: dict[str, Any] = {}


ToWorker = Load | Prepare | Submit | Cancel | Tune
ToFront = Ready | Preparing | Prepared | Announce | Step | Released | Fault | Log

_encoder = msgspec.msgpack.Encoder()
to_worker_decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
to_front_decoder: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)


class FrameError(Exception):
    """The peer sent something that is no frame; the connection cannot be used further."""


def encode(frame: ToWorker | ToFront) -> bytes:
    """Return one frame as bytes ready to send."""
    body = _encoder.encode(frame)
    return _HEADER.pack(len(body)) + body


class FrameBuffer:
    """Collects bytes from a stream and yields whole frame bodies."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add received bytes; yield each complete frame body.

        Raises:
            FrameError: a declared length is above `MAX_FRAME_BYTES`.
        """
        self._pending += data
        start = 0
        while len(self._pending) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._pending, start)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"frame of {length} bytes")
            end = start + _HEADER.size + length
            if len(self._pending) < end:
                break
            yield bytes(self._pending[start + _HEADER.size : end])
            start = end
        del self._pending[:start]
