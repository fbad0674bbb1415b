"""The frame protocol between the front and one worker: msgpack structs behind a 4-byte length.

Front to worker: `Load` (first and once), `Prepare`, `Submit`, `Embed`, `Cancel`, `Tune`, `Cache`.
Worker to front: `Ready`, `Preparing`, `Prepared`, `Announce`, `Step`, `Embedded`, `CacheChanged`,
`Released`, `Fault`, `Log`.
Closing the socket ends the worker.
"""

import struct
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from opta_lmx.core.kv_cost import KvCost
from opta_lmx.core.types import FinishReason, Prompt, SamplingParams, Speech, TopLogprob
from opta_lmx.models.description import ModelKind

MAX_FRAME_BYTES = 256 * 1024 * 1024
_HEADER = struct.Struct("<I")

CacheAbility = Literal["none", "whole", "trimmable"]
ResumeAbility = Literal["none", "unseeded", "all"]


class Load(msgspec.Struct, tag=True, frozen=True):
    """What to load. `path` is the GGUF file or the MLX folder; unused by `sim`.

    `kind` is what the model is for: `chat` continues text, `embedding` makes vectors, `rerank`
    scores a document against a query.
    `context` is the tokens one request may use (0: as the model says); `slots` the rows that
    run at once; `threads` 0 means the engine's default; `speech`, where given, replaces what
    the template tells of the model's ways; `options` are the adapter's own, checked by it.
    `draft` is the file of a smaller model of the same vocabulary that guesses `draft_tokens`
    tokens ahead, for the model to check at once (empty: none). `adapters` are the LoRA adapters
    loaded with the model: name to file or folder; a request names one or none (`Submit.adapter`).
    Their headers were checked (`models.adapters`); one that does not fit is `adapter_refused`.
    `adapter_versions` are those of the files that were checked; another one that was read instead
    is `adapter_changed`.
    """

    model: str
    backend: Literal["mlx", "gguf", "sim"]
    kind: ModelKind = "chat"
    path: str = ""
    context: int = 0
    slots: int = 8
    threads: int = 0
    template: str | None = None
    speech: Speech | None = None
    runtime_dir: str = ""
    options: dict[str, Any] = {}
    draft: str = ""
    draft_tokens: int = 0
    adapters: dict[str, str] = {}
    adapter_versions: dict[str, str] = {}


class Prepare(msgspec.Struct, tag=True, frozen=True):
    """Render and tokenize a prompt; `echo` asks for its text too."""

    id: int
    prompt: Prompt
    echo: bool = False


class Reuse(msgspec.Struct, frozen=True, array_like=True):
    """The first `tokens` of a request's ids (never all of them) are held under `handle`.

    The handle may be one that a request still running is to keep: then this one waits for it.
    """

    handle: int
    tokens: int


class Keep(msgspec.Struct, frozen=True, array_like=True):
    """Once the first `tokens` of a request's ids are processed, hold their state as `handle`."""

    handle: int
    tokens: int


class Submit(msgspec.Struct, tag=True, frozen=True):
    """Start generating. Sampling is fully resolved: no engine default applies.

    `grammar` (llguidance's Lark) holds the whole answer, from its first token on; it was
    checked before. `logit_bias` is (token id, addend) for tokens of the vocabulary.

    `generated` are tokens of the answer that were delivered before: it goes on after them as if
    it had never stopped (`max_tokens`, penalties, grammar and the draws of a seed count them).

    `reuse`, `keep` and `keep_end` speak of the caches, under handles that the front chooses and
    never uses twice in a worker's life. Offsets are in `ids` followed by `generated`. `keep_end`
    (0: none) is the handle for the state when the answer ends, or is held (`Cancel.hold`).

    `salt` names whose caches may be used where the engine matches prefixes by itself: requests
    of different salts never share any. The worker only compares it.

    `adapter` is one of `Load.adapters` (empty: the model as it is). Whatever a prompt left in a
    cache holds for the same adapter only: the front gives each adapter salts of its own.

    `first`: nothing else of its key runs. Where prompts are processed one after the other, its
    own goes before those of who has more.
    """

    id: int
    ids: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int
    top_logprobs: int | None = None
    grammar: str | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    generated: tuple[int, ...] = ()
    reuse: Reuse | None = None
    keep: tuple[Keep, ...] = ()
    keep_end: int = 0
    salt: str = ""
    first: bool = False
    adapter: str = ""


class Embed(msgspec.Struct, tag=True, frozen=True):
    """Make one vector of each input, or (a `rerank` model) one score.

    An input is a text, token ids taken as they are, or for `rerank` a document, which `query`
    is asked of. `cut_to` bounds the tokens of each input (never the query's) by cutting its end
    off, and whatever is beyond the window with it; None makes an input that is too long an error,
    and so it is among the first `uncut` inputs in any case.

    `count`: only the tokens are wanted. That takes no slot, and no `Released` follows.
    """

    id: int
    inputs: tuple[str | tuple[int, ...], ...]
    cut_to: int | None = None
    query: str | None = None
    uncut: int = 0
    count: bool = False


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Stop a request at any stage; tokens after the first `keep` are not wanted in any cache.

    `hold`: its state so far is kept under its `keep_end`, from which it is to be resumed.
    """

    id: int
    keep: int | None = None
    hold: bool = False


class Tune(msgspec.Struct, tag=True, frozen=True):
    """Change a live setting: the longest pause, in ms, a prefill may cause a running stream."""

    stall_target_ms: int


class Move(msgspec.Struct, frozen=True, array_like=True):
    """The state held as `handle`, and the file it is written to or read from.

    `note` goes into the file's head, where `statefile.read_head` finds it without the worker.
    """

    handle: int
    path: str
    note: bytes = b""


class Cache(msgspec.Struct, tag=True, frozen=True):
    """Let go of held states, write some to files, or read some back. `CacheChanged` answers.

    A state that a waiting request is to reuse is dropped only after that request has taken it.
    """

    drop: tuple[int, ...] = ()
    spill: tuple[Move, ...] = ()
    load: tuple[Move, ...] = ()


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The model is loaded: what it can hold and how it speaks.

    `context` is the usable window in tokens; `kv_bytes` the bytes available for caches (0:
    unknown); `weights_bytes` what the weights take; `speech` how the model writes calls and
    thinking; `template_source` is `model`, `config` or `default`; `sampling` the model's own
    defaults; `engine` name and version of what computes; `dimensions` the width of an
    embedding model's vectors, `shorter` the widths they were trained to be cut to; `lacks`
    names request features the engine cannot do (`grammar`, `logprobs`, `logit_bias`,
    `penalties`), `repeatable` says that a seeded answer is the same alone and in a full batch,
    but for ties within float32's rounding; token ids are below `vocabulary` (0: unknown).

    `caches`: what can be held and reused: nothing, states of exactly the length they were kept
    at (`whole`), or any shorter prefix of them too (`trimmable`). `resumes`: which requests can
    go on after `Submit.generated`: those without a seed of the caller's and a grammar
    (`unseeded`), or `all`. `pauses`: a row that is held (`Cancel.hold`) can go on later. `kv`:
    what a row takes of `kv_bytes`; None where the slots alone bound what runs.
    """

    context: int
    slots: int
    kv_bytes: int = 0
    weights_bytes: int = 0
    speech: Speech = Speech()
    template_source: str = "model"
    sampling: SamplingParams = SamplingParams()
    engine: str = ""
    dimensions: int = 0
    shorter: tuple[int, ...] = ()
    lacks: tuple[str, ...] = ()
    repeatable: bool = False
    vocabulary: int = 0
    caches: CacheAbility = "none"
    resumes: ResumeAbility = "none"
    pauses: bool = False
    kv: KvCost | None = None


class Preparing(msgspec.Struct, tag=True, frozen=True):
    """The text thread has begun with this prompt."""

    id: int


class Prepared(msgspec.Struct, tag=True, frozen=True):
    """The exact prompt tokens; `cuts` are offsets at which turns start; or an `error` text.

    `anchors` are offsets up to which the prompt's author means to send it again.
    `at_least` is set instead for a prompt so long that counting it exactly is not worth it.
    `thinking`: the prompt ends inside a block of reasoning that the answer continues.
    `text` is the prompt's text where asked for. `param` is the request field of an `error`.
    """

    id: int
    ids: tuple[int, ...] = ()
    cuts: tuple[int, ...] = ()
    anchors: tuple[int, ...] = ()
    at_least: int = 0
    thinking: bool = False
    text: str | None = None
    error: str | None = None
    param: str = "messages"


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


class Drafted(msgspec.Struct, frozen=True, array_like=True):
    """So many more tokens of a request were guessed ahead; the model accepted `accepted`."""

    request: int
    tokens: int
    accepted: int


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
    drafts: tuple[Drafted, ...] = ()


class Embedded(msgspec.Struct, tag=True, frozen=True):
    """The vectors of one `Embed`: each little-endian 32-bit floats (one for a score).

    `tokens` counts each input's tokens. Or nothing was made, because of the input at place
    `at`: `needs` is its length in tokens where that is beyond the window (at least, unless
    `exact`; `of_query`: so is the query's alone), else `error` says why. `Released` follows.
    """

    id: int
    vectors: tuple[bytes, ...] = ()
    tokens: tuple[int, ...] = ()
    at: int | None = None
    needs: int = 0
    exact: bool = True
    of_query: bool = False
    error: str = ""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A state is held: how many tokens it covers, and the bytes it takes."""

    handle: int
    tokens: int
    bytes: int


class CacheChanged(msgspec.Struct, tag=True, frozen=True):
    """States that are now held (kept by a request or read back), lost, or written to files.

    `lost` are handles that hold nothing (any more), also those a request was to keep and did
    not; `spilled` those whose file is complete, `unspilled` those whose file could not be made.
    """

    kept: tuple[Kept, ...] = ()
    lost: tuple[int, ...] = ()
    spilled: tuple[Kept, ...] = ()
    unspilled: tuple[int, ...] = ()


class Released(msgspec.Struct, tag=True, frozen=True):
    """The slot of this request is free again, whatever ended it."""

    id: int


class Fault(msgspec.Struct, tag=True, frozen=True):
    """Something failed: one request (`id`), or the worker as a whole (`id` None, then exit).

    `code` is machine-readable: `load_failed`, `canary_failed`, `missing_extra`, `draft_refused`,
    `adapter_refused`, `adapter_changed`, `kv_type_refused`, `step_failed`, `out_of_memory`,
    `bad_request`, `encode_failed`. `adapter` is the one that is refused, or was changed.
    """

    message: str
    code: str
    id: int | None = None
    adapter: str = ""


class Log(msgspec.Struct, tag=True, frozen=True):
    """A log line for the front to write."""

    level: str
    event: str
    fields: dict[str, Any] = {}


ToWorker = Load | Prepare | Submit | Embed | Cancel | Tune | Cache
ToFront = (
    Ready
    | Preparing
    | Prepared
    | Announce
    | Step
    | Embedded
    | CacheChanged
    | Released
    | Fault
    | Log
)

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
