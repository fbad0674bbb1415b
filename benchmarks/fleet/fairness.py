"""Who got how much: Jain's index, and the widest gap in service between two that both want it."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import msgspec

from benchmarks.fleet.asking import Asked

ANSWER_WEIGHT = 2.0
"""One answer token costs as much as so many prompt tokens."""
PAUSE_S = 0.05
"""A caller that asks again within this time has wanted service all along."""


class Service(msgspec.Struct, frozen=True):
    """What one caller got when: moments (s, in order) and the cost served at each."""

    moments: list[float]
    costs: list[float]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.costs)


class Span(msgspec.Struct, frozen=True):
    """A stretch of time in which a caller wanted service (s)."""

    start: float
    end: float


class Gap(msgspec.Struct, frozen=True):
    """The widest gap between two callers, what it may be at most, and their quotient."""

    widest: float
    allowed: float
    part: float


def jain(values: Iterable[float]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has everything; NaN for nobody."""
    given = list(values)
    squares = sum(value * value for value in given)
    if not given:
        return float("nan")
    return sum(given) ** 2 / (len(given) * squares) if squares else 1.0


def service_of(asked: Sequence[Asked]) -> Service:
    """One caller's service: a prompt's computed tokens at its first token, then the answer's.

    Tokens from the cache cost nothing here: nobody had to wait for them.
    """
    events: list[tuple[float, float]] = []
    for one in asked:
        stamps = one.last.stamps
        if not stamps:
            continue
        counts = one.last.counts
        events.append((stamps[0], float((counts.prompt or 0) - (counts.cached or 0))))
        spoken = len(stamps) if counts.completion is None else counts.completion
        events += [(stamp, ANSWER_WEIGHT * spoken / len(stamps)) for stamp in stamps]
    events.sort()
    return Service([moment for moment, _ in events], [cost for _, cost in events])


def wanted(asked: Sequence[Asked], pause_s: float = PAUSE_S) -> list[Span]:
    """The stretches in which a caller had a request under way or waited to try again."""
    spans: list[Span] = []
    for one in sorted(asked, key=lambda each: each.start):
        if spans and one.start - spans[-1].end <= pause_s:
            spans[-1] = Span(spans[-1].start, max(spans[-1].end, one.last.end))
        else:
            spans.append(Span(one.start, one.last.end))
    return spans


def common(one: Sequence[Span], other: Sequence[Span]) -> list[Span]:
    """The stretches in both."""
    found: list[Span] = []
    for a in one:
        for b in other:
            start, end = max(a.start, b.start), min(a.end, b.end)
            if end > start:
                found.append(Span(start, end))
    return found


def widest_gap(one: Service, other: Service, spans: Iterable[Span]) -> float:
    """The largest difference of service received between any two moments within a stretch.

    Within a stretch the difference `one - other` is a path; its widest gap is the highest
    point of that path above its lowest.
    """
    signed = [(moment, cost) for moment, cost in zip(one.moments, one.costs, strict=True)]
    signed += [(moment, -cost) for moment, cost in zip(other.moments, other.costs, strict=True)]
    signed.sort()
    moments = [moment for moment, _ in signed]
    widest = 0.0
    for span in spans:
        height = low = high = 0.0
        within = slice(bisect_left(moments, span.start), bisect_right(moments, span.end))
        for _, cost in signed[within]:
            height += cost
            low, high = min(low, height), max(high, height)
        widest = max(widest, high - low)
    return widest


def unit(asked: Iterable[Asked], slots: int) -> float:
    """U: the dearest prompt, or a full batch of the longest answers, whichever is more."""
    counts = [one.last.counts for one in asked if one.served]
    prompt = max((count.prompt or 0 for count in counts), default=0)
    answer = max((count.completion or 0 for count in counts), default=0)
    return max(float(prompt), ANSWER_WEIGHT * slots * answer)


def gap(by_caller: Mapping[str, Sequence[Asked]], slots: int) -> Gap:
    """The widest gap of any two callers in the time both wanted service, beside 2U."""
    service = {who: service_of(asked) for who, asked in by_caller.items()}
    spans = {who: wanted(asked) for who, asked in by_caller.items()}
    widest = 0.0
    for a, b in combinations(by_caller, 2):
        both = common(spans[a], spans[b])
        widest = max(widest, widest_gap(service[a], service[b], both))
    allowed = 2 * unit([one for asked in by_caller.values() for one in asked], slots)
    return Gap(widest, allowed, widest / allowed if allowed else float("nan"))
