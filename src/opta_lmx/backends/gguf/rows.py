"""What the engine knows of each running request, and what one step reports of them."""

from opta_lmx.backends.frames import Announce, Drafted, Started, Step, TokenOut
from opta_lmx.backends.gguf.completion import Progress
from opta_lmx.backends.gguf.slot import Tokens, held_after, submitted
from opta_lmx.backends.gguf.slots import Start
from opta_lmx.backends.protocol import Emit

_FIRST_GUESS_MS = 5.0
"""Per prompt token, before anything was measured."""


class Row:
    """A running request."""

    def __init__(self, start: Start) -> None:
        self.request = start.request
        self.answer: list[int] = []
        self.decoding = False
        self.cancelled = False
        self.paused = False
        self.start = start
        self.reuse = not start.fresh
        """Whether what its slot holds of its prompt may be used."""
        self.interrupted = False
        """It is to begin again, from what is processed: nothing it says until then counts."""
        self.led = False
        """It was interrupted at some time."""
        self._keep: int | None = None
        self._done: int | None = None
        self._total = len(submitted(start.request))

    def cancel(self, keep: int | None, *, paused: bool) -> None:
        """Nothing more is wanted of it, or not now (`paused`); `keep` as in `Cancel`."""
        self.cancelled, self.paused, self._keep = True, paused, keep

    def interrupt(self) -> None:
        """Others wait for its beginning. Nothing of its answer was told yet.

        What llama.cpp generated meanwhile, or does before it notices, is dropped: it is drawn
        again, from the same seed, when the request goes on.
        """
        self.interrupted = self.led = True

    def resume(self) -> None:
        """It begins again."""
        self.interrupted = False
        self.reuse = self.reuse or bool(self._done)

    def progress(self, done: int) -> bool:
        """Note how much of the prompt is processed; True when this is the first that is told."""
        first = self._done is None
        self._done = done
        return first

    def take(self, out: TokenOut) -> None:
        """Note a token of the answer."""
        self._done = self._total
        self.answer.append(out.id)
        self.decoding = out.finish is None

    @property
    def resumable(self) -> bool:
        """True when every token of its answer is known, so that it can be given back."""
        return min(self.answer, default=0) >= 0

    @property
    def cells(self) -> int:
        """Cache cells it takes, at most."""
        return self._total + len(self.answer)

    def held(self) -> Tokens:
        """What its slot is known to hold of it."""
        if self._done is None:
            return ()
        return held_after(self.request, self._done, self.answer, self._keep)


class Rows:
    """The running requests, and how fast prompts are processed.

    Args:
        emit: tells the front how long a prompt may take.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._rows: dict[int, Row] = {}
        self._prefill_ms = _FIRST_GUESS_MS

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, start: Start, before_s: float = 0.0) -> Row:
        """A request starts; to prepare its slot takes so long."""
        row = self._rows[start.request.id] = Row(start)
        uncached = len(submitted(start.request)) - start.cached
        self._emit(Announce("prefill", before_s + uncached * self._prefill_ms / 1000))
        return row

    def find(self, request: int) -> Row | None:
        """The row of a request that runs."""
        return self._rows.get(request)

    def end(self, request: int) -> Row:
        """A request is over; return its row."""
        return self._rows.pop(request)

    @property
    def decoding(self) -> int:
        """How many generate."""
        return sum(row.decoding for row in self._rows.values())

    @property
    def cells(self) -> int:
        """Cache cells all take."""
        return sum(row.cells for row in self._rows.values())

    def measure(self, item: Progress) -> None:
        """Learn from a prompt's progress."""
        worked = item.done - item.cached
        if item.ms > 0 and worked > 0:
            self._prefill_ms += (item.ms / worked - self._prefill_ms) / 4


class Harvest:
    """What one step will report."""

    def __init__(self) -> None:
        self._tokens: list[TokenOut] = []
        self._started: list[Started] = []
        self._prefill: dict[int, tuple[int, int, int]] = {}
        self._drafts: list[Drafted] = []

    def token(self, row: Row, out: TokenOut) -> None:
        """Take a token; one of a cancelled request is not reported."""
        row.take(out)
        if not row.cancelled:
            self._tokens.append(out)

    def drafted(self, row: Row, item: Drafted) -> None:
        """Take news of guesses; those for a cancelled request are not reported."""
        if not row.cancelled:
            self._drafts.append(item)

    def progress(self, row: Row, item: Progress) -> None:
        """Take a prompt's progress."""
        if row.progress(item.done):
            # What it processed itself before it was interrupted does not count as cached.
            cached = min(item.cached, row.start.cached) if row.led else item.cached
            self._started.append(Started(item.request, cached))
        self._prefill[item.request] = (item.request, item.done, item.total)

    def step(self, number: int, took_ms: float, rows: Rows, cell_bytes: int) -> Step:
        """Return the frame."""
        return Step(
            n=number,
            ms=took_ms,
            tokens=tuple(self._tokens),
            started=tuple(self._started),
            prefill=tuple(self._prefill.values()),
            rows=rows.decoding,
            kv_bytes=rows.cells * cell_bytes,
            drafts=tuple(self._drafts),
        )
