"""The gate's figures, from the rounds of a contest."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.contest import Round, counted
from benchmarks.measure import Result
from benchmarks.stats import Spread, median, percentile

THRESHOLDS = Path(__file__).with_name("thresholds.toml")
BURST, BUSY = "c8 burst", "busy"


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a figure may be; one of `min` and `max` is given."""

    about: str
    min: float | None = None
    max: float | None = None

    def holds(self, value: float) -> bool:
        """True when a value is within it; a value that is no number never is."""
        if self.min is not None:
            return value >= self.min
        return self.max is not None and value <= self.max

    def __str__(self) -> str:
        return f">= {self.min:g}" if self.min is not None else f"<= {self.max:g}"


class Judged(msgspec.Struct, frozen=True):
    """A figure: its median over the rounds, its spread, and whether it is within its limit."""

    name: str
    about: str
    limit: str
    median: float
    low: float
    high: float
    rounds: int
    good: bool


class SharedPrefix(msgspec.Struct, frozen=True):
    """Eight bots of one house at once.

    Prompt tokens are summed over the eight: `computed` is what the server says did not come
    from its cache, `needed` what no earlier request had.
    """

    first_token: Spread
    computed: int
    needed: int
    untrue: int

    def wrong(self, width: int) -> list[str]:
        """What makes the wave no measurement."""
        found: list[str] = []
        if self.first_token.count != width:
            found.append(f"{width - self.first_token.count} bots without an answer")
        if self.untrue:
            found.append(f"{self.untrue} untrue counts of cached tokens")
        return found


class GateRound(msgspec.Struct, frozen=True):
    """One round: the contest's results, and this server's work in a burst of its own.

    `ours` and `theirs` are waves of bots with a shared prefix, side by side, after another bot
    had sent it; `cold` is a wave without, on this server and on the other.

    `steps` are engine steps while eight answers of `answer_tokens` tokens were made at once;
    `cpu` the worker's CPU per token over the bare loop's, for pairs of bursts that took turns.
    """

    played: Round
    ours: list[SharedPrefix]
    theirs: list[SharedPrefix]
    cold: list[SharedPrefix]
    steps: float
    answer_tokens: int
    cpu: list[float]


def read_limits(path: Path = THRESHOLDS) -> dict[str, Limit]:
    """Read the thresholds.

    Raises:
        ValueError: the file is not what it should be, or names other figures than there are.
    """
    limits = msgspec.convert(tomllib.loads(path.read_text("utf-8")), dict[str, Limit])
    if limits.keys() != FIGURES.keys():
        wrong = sorted(limits.keys() ^ FIGURES.keys())
        raise ValueError(f"{path.name} and the gate's figures differ: {', '.join(wrong)}")
    for name, limit in limits.items():
        if (limit.min is None) == (limit.max is None):
            raise ValueError(f"{path.name}: {name} needs one of min and max")
    return limits


def _of(scenario: str, figure: Callable[[Result], float]) -> Callable[[GateRound], float]:
    def compare(one: GateRound) -> float:
        theirs = figure(one.played.theirs[scenario])
        return figure(one.played.ours[scenario]) / theirs if theirs else float("nan")

    return compare


FIGURES: dict[str, Callable[[GateRound], float]] = {
    "worker_cpu_over_raw": lambda one: median(one.cpu),
    "throughput_over_raw": lambda one: (
        one.played.ours[BURST].tokens_per_s / one.played.raw[BURST].tokens_per_s
    ),
    "first_token_over_raw": lambda one: (
        one.played.ours[BURST].ttft.p95 / one.played.raw[BURST].ttft_ms
    ),
    "throughput_over_peer": _of(BURST, lambda result: result.tokens_per_s),
    "first_token_over_peer": _of(BUSY, lambda result: result.ttft.p95),
    "cold_first_token_over_peer": lambda one: (
        one.cold[0].first_token.p95 / one.cold[1].first_token.p95
    ),
    "shared_first_token_over_peer": lambda one: median(
        ours.first_token.p95 / theirs.first_token.p95
        for ours, theirs in zip(one.ours, one.theirs, strict=True)
    ),
    "steps_per_token": lambda one: one.steps / one.answer_tokens,
    "prefill_over_needed": lambda one: (
        sum(wave.computed for wave in one.ours) / sum(wave.needed for wave in one.ours)
    ),
}


def judge(rounds: Sequence[GateRound], limits: dict[str, Limit]) -> list[Judged]:
    """Hold the median of each figure against its limit; the first round does not count."""
    kept = counted(list(rounds))
    found: list[Judged] = []
    for name, limit in limits.items():
        values = [FIGURES[name](one) for one in kept]
        middle = median(values)
        spread = percentile(values, 0), percentile(values, 100)
        found.append(
            Judged(name, limit.about, str(limit), middle, *spread, len(kept), limit.holds(middle))
        )
    return found
