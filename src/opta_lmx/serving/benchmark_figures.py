"""What the answers of a benchmark come to: times, speeds, and whether they can be read. Pure.

Definitions, in one place:

- A percentile lies on the straight line between the two nearest values (Hyndman and Fan 1996,
  type 7, which most tools use).
- `repetition_ratio` is seq-rep-4 (Welleck et al. 2019, arXiv:1908.04319): 1 - distinct / all
  4-grams of an answer, the median over the answers. There greedy answers of a plain model had
  0.44, people's text 0.006.
- `coherence`, the first that holds:
  `garbled`: more than 2 % of all characters are no text (U+FFFD, control characters but tab and
  line ends, private or unassigned code points), or tokens were made and no text came of them;
  `repetitive`: the repetition ratio is above 0.5;
  `truncated`: half of the answers, or more, ended before half of the tokens that were asked for;
  `ok` otherwise. The bounds of these three are ours.
- `status` is `insufficient_data` where fewer than three answers had a speed to measure (two
  tokens or more): percentiles of fewer say nothing.
"""

import re
import statistics
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

Coherence = Literal["ok", "truncated", "repetitive", "garbled"]
Status = Literal["ok", "insufficient_data"]

LEAST_ANSWERS = 3
MOST_REPETITION = 0.5
MOST_GARBAGE = 0.02
LEAST_LENGTH = 0.5
_GRAM = 4
_NO_TEXT = frozenset({"Cc", "Co", "Cn", "Cs"})
# Scripts that put no blank between words count by the letter: Thai, kana and Han.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")


class Sample(msgspec.Struct, frozen=True):
    """One answer as it was received. Times in seconds on one monotonic clock.

    `began`: when it was asked for; `stamps`: when each token came; `waited_s`: until it had a
    slot; `prompt_s`: from there to its first token. `cached_tokens` of the prompt were not
    computed.
    """

    began: float
    stamps: tuple[float, ...] = ()
    text: str = ""
    waited_s: float = 0.0
    prompt_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def ttft_s(self) -> float | None:
        """From asking to the first token; None where none came."""
        return self.stamps[0] - self.began if self.stamps else None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first, over the time since the first; None for a single one."""
        spent = self.stamps[-1] - self.stamps[0] if self.stamps else 0.0
        return (len(self.stamps) - 1) / spent if spent > 0 else None

    @property
    def prompt_tokens_per_s(self) -> float | None:
        """Prompt tokens that were computed, over the time that took."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prompt_s if self.prompt_s > 0 and computed > 0 else None


class Spread(msgspec.Struct, frozen=True):
    """How values are spread; all None where there are none."""

    p50: float | None
    p95: float | None
    mean: float | None


class Figures(msgspec.Struct, frozen=True):
    """What a benchmark found; see the module for the definitions.

    Times are in ms. `tokens_per_s` is of one answer, `total_tokens_per_s` of all that ran side by
    side, from asking to the last token. `output_tokens` and the prompt's counts are means.
    """

    status: Status
    coherence: Coherence
    repetition_ratio: float
    answers: int
    output_tokens: float
    prompt_tokens: float
    cached_tokens: float
    ttft_ms: Spread
    waited_ms: Spread
    tokens_per_s: Spread
    total_tokens_per_s: Spread
    inter_token_ms: Spread
    prompt_tokens_per_s: Spread


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which that share (0 to 1) lies; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Iterable[float | None], scale: float = 1.0) -> Spread:
    """The spread of the values there are, each times `scale`."""
    found = [value * scale for value in values if value is not None]
    points = (percentile(found, 0.5), percentile(found, 0.95))
    return Spread(*map(_rounded, (*points, statistics.fmean(found) if found else None)))


def figures(runs: Sequence[Sequence[Sample]], asked_tokens: int) -> Figures:
    """Sum up a benchmark.

    Args:
        runs: the answers of each measured run, which ran side by side; warm-up left out.
        asked_tokens: how long each answer was to be.
    """
    samples = [sample for run in runs for sample in run]
    repetition = statistics.median(
        [repetition_ratio(one.text) for one in samples if one.stamps] or [0.0]
    )
    measured = sum(one.tokens_per_s is not None for one in samples)
    gaps = [b - a for one in samples for a, b in pairwise(one.stamps)]
    return Figures(
        status="ok" if measured >= LEAST_ANSWERS else "insufficient_data",
        coherence=coherence(samples, asked_tokens, repetition),
        repetition_ratio=round(repetition, 4),
        answers=len(samples),
        output_tokens=_mean(samples, lambda one: len(one.stamps)),
        prompt_tokens=_mean(samples, lambda one: one.prompt_tokens),
        cached_tokens=_mean(samples, lambda one: one.cached_tokens),
        ttft_ms=spread((one.ttft_s for one in samples), 1000),
        waited_ms=spread((one.waited_s for one in samples if one.stamps), 1000),
        tokens_per_s=spread(one.tokens_per_s for one in samples),
        total_tokens_per_s=spread(map(total_speed, runs)),
        inter_token_ms=spread(gaps, 1000),
        prompt_tokens_per_s=spread(one.prompt_tokens_per_s for one in samples),
    )


def total_speed(run: Sequence[Sample]) -> float | None:
    """Tokens per second of answers that ran side by side; None where there were none."""
    told = [one for one in run if one.stamps]
    if not told:
        return None
    wall_s = max(one.stamps[-1] for one in told) - min(one.began for one in told)
    return sum(len(one.stamps) for one in told) / wall_s if wall_s > 0 else None


def repetition_ratio(text: str) -> float:
    """1 - distinct / all 4-grams of words; 0 for a text too short to have any."""
    words = _WORD.findall(text)
    grams = list(zip(*(words[start:] for start in range(_GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def garbage(text: str) -> float:
    """The share of characters that are no text (0 to 1)."""
    bad = sum(char == "\ufffd" or _is_no_text(char) for char in text)
    return bad / len(text) if text else 0.0


def _is_no_text(char: str) -> bool:
    return char not in "\t\n\r" and unicodedata.category(char) in _NO_TEXT


def coherence(samples: Sequence[Sample], asked_tokens: int, repetition: float) -> Coherence:
    """What is wrong with the answers as text, the worst first.

    Args:
        samples: the answers.
        asked_tokens: how long each was to be.
        repetition: their repetition ratio.
    """
    told = [one for one in samples if one.stamps]
    whole = "".join(one.text for one in told)
    if garbage(whole) > MOST_GARBAGE or (told and not whole.strip()):
        return "garbled"
    if repetition > MOST_REPETITION:
        return "repetitive"
    short = sum(len(one.stamps) < LEAST_LENGTH * asked_tokens for one in samples)
    return "truncated" if samples and 2 * short >= len(samples) else "ok"


def _mean(samples: Sequence[Sample], count: Callable[[Sample], int]) -> float:
    return round(statistics.fmean(map(count, samples)), 2) if samples else 0.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
