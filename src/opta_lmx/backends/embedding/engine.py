"""The worker's engine for models that make vectors or scores, on whichever `Encoder`.

Inputs of all requests share batches. A step reads a bounded piece of one request's inputs and
encodes one batch, both sized by what was measured, so that a cancel is never far away.
"""

from opta_lmx.backends.embedding.encoder import (
    Encoded,
    EncodeError,
    Encoder,
    Input,
    InputError,
    OpenEncoder,
    Pair,
)
from opta_lmx.backends.embedding.jobs import Job, Jobs, Row
from opta_lmx.backends.frames import (
    Announce,
    Cancel,
    Embed,
    Embedded,
    Fault,
    Load,
    Ready,
    Released,
    Step,
    Submit,
    Tune,
)
from opta_lmx.backends.protocol import Emit, PreparedPrompt, TextError, Texts
from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.types import Prompt

TARGET_MS = 200.0
"""How long one batch should take."""
FIRST_BUDGET = 512
MAX_BUDGET = 16_384
"""Padded tokens of the first batch, and of any."""
READ_CHARS = 64 * 1024
"""Characters tokenized in one step; one longer input is tokenized alone."""
_CALL_CHARS = 32
_READ_S_PER_CHAR = 20e-6
"""What tokenizing surely takes less than, for the watchdog."""
_FORGET = 0.5
_FIRST_BATCH_S = 30.0


class NoTexts:
    """The `Texts` of a model that has no text to continue."""

    def prepare(self, prompt: Prompt, *, echo: bool = False) -> PreparedPrompt:  # noqa: ARG002  (the protocol's)
        """Refuse."""
        raise TextError("this model makes vectors or scores, not text")


class VectorEngine:
    """Serves `Embed`; see `backends.protocol.Engine` for the rest.

    Args:
        open_encoder: loads the model.
        clock: time.
    """

    def __init__(self, open_encoder: OpenEncoder, clock: Clock | None = None) -> None:
        self._open = open_encoder
        self._clock = clock or SystemClock()
        self._jobs = Jobs()
        self._steps = 0
        self._ms_per_token = 0.0

    def load(self, spec: Load, emit: Emit) -> tuple[Ready, Texts]:
        """Load the model. Raises LoadError."""
        self._emit = emit
        self._encoder: Encoder
        self._encoder, ready = self._open(spec, emit)
        self._rerank = spec.kind == "rerank"
        self._window = ready.context
        return ready, NoTexts()

    def submit(self, request: Submit) -> None:
        """Refuse: there is no text to generate."""
        self._emit(Fault("this model makes vectors or scores, not text", "bad_request", request.id))
        self._emit(Released(request.id))

    def embed(self, request: Embed) -> None:
        """Take a request."""
        job = self._jobs.add(request)
        if job.done:  # of no inputs at all
            self._end(job, Embedded(request.id))

    def cancel(self, request: Cancel) -> None:
        """Stop a request before its next batch."""
        if self._jobs.drop(request.id) is not None:
            self._emit(Released(request.id))

    def tune(self, settings: Tune) -> None:
        """Nothing to change: no stream waits for a batch."""

    @property
    def busy(self) -> bool:
        """True while any request is unfinished."""
        return len(self._jobs) > 0

    def step(self) -> Step | None:
        """Read a piece of one request, encode one batch."""
        if not self.busy:
            return None
        began = self._clock.monotonic()
        self._read_some()
        rows = self._jobs.batch(self._budget())
        if rows:
            self._encode(rows)
        self._steps += 1
        return Step(self._steps, (self._clock.monotonic() - began) * 1000, rows=len(rows))

    def _read_some(self) -> None:
        """Tokenize inputs in turn until the step's share is used up."""
        left = READ_CHARS
        for job in self._jobs:
            while job.readable:
                length = _length(job.unread)
                if length > left and left < READ_CHARS:
                    self._jobs.defer(job)
                    return
                left -= length
                if length > READ_CHARS:
                    self._emit(Announce("tokenize", length * _READ_S_PER_CHAR))
                if not self._read(job):
                    break

    def _read(self, job: Job) -> bool:
        """Tokenize the next input of a job; False when that ended the job."""
        request = job.request
        place = len(job.tokens)
        try:
            cut_to = None if place < request.uncut else request.cut_to
            encoded = self._encoded(job.unread, cut_to)
        except InputError as error:
            self._end(job, Embedded(request.id, at=place, error=str(error)))
            return False
        if encoded.tokens > self._window:
            self._end(job, self._too_long(job, encoded))
            return False
        job.took(encoded)
        if request.count and not job.readable:
            self._end(job, Embedded(request.id, tokens=tuple(job.tokens)))
            return False
        return True

    def _encoded(self, value: Input, cut_to: int | None) -> Encoded:
        if isinstance(value, Pair) != self._rerank:
            wanted = "a query with a document" if self._rerank else "a text or token ids"
            raise InputError(f"this model takes {wanted}")
        return self._encoder.read(value, cut_to)

    def _too_long(self, job: Job, encoded: Encoded) -> Embedded:
        needs, exact = encoded.tokens, encoded.exact
        of_query = encoded.second >= self._window
        place = len(job.tokens)
        return Embedded(job.request.id, at=place, needs=needs, exact=exact, of_query=of_query)

    def _budget(self) -> int:
        if not self._ms_per_token:
            return FIRST_BUDGET
        return max(1, min(MAX_BUDGET, int(TARGET_MS / self._ms_per_token)))

    def _encode(self, rows: list[Row]) -> None:
        padded = len(rows) * max(row.encoded.tokens for row in rows)
        predicted_s = padded * self._ms_per_token / 1000 or _FIRST_BATCH_S
        self._emit(Announce("encode", predicted_s))
        began = self._clock.monotonic()
        try:
            vectors = self._encoder.encode([row.encoded for row in rows])
        except EncodeError as error:
            self._fail(rows, str(error))
            return
        self._measured((self._clock.monotonic() - began) * 1000 / padded)
        for row, vector in zip(rows, vectors, strict=True):
            row.job.finish(row.place, vector)
            if row.job.done:
                self._end(row.job, _answer(row.job))

    def _measured(self, ms_per_token: float) -> None:
        known = self._ms_per_token or ms_per_token
        self._ms_per_token = known * _FORGET + ms_per_token * (1 - _FORGET)

    def _fail(self, rows: list[Row], reason: str) -> None:
        for request in {row.job.request.id for row in rows}:
            self._jobs.drop(request)
            self._emit(Fault(reason, "encode_failed", request))
            self._emit(Released(request))

    def _end(self, job: Job, answer: Embedded) -> None:
        self._jobs.drop(job.request.id)
        self._emit(answer)
        if not job.request.count:
            self._emit(Released(job.request.id))


def _length(value: Input) -> int:
    """Characters of an input, or its ids, and a little for the call itself."""
    size = len(value.query) + len(value.document) if isinstance(value, Pair) else len(value)
    return size + _CALL_CHARS


def _answer(job: Job) -> Embedded:
    vectors = tuple(vector for vector in job.vectors if vector is not None)
    return Embedded(job.request.id, vectors, tuple(job.tokens))
