"""Whether Retry-After told the truth: the time promised beside the time a place was to be had.

A client cannot see the line, but it sees its own requests. It was refused because all places
were taken; a place came free when the first of the requests then under way had ended. Where the
retry was refused again, there was none for it until the try that was let in.
"""

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from benchmarks.fleet.asking import TRIES, Asked
from benchmarks.stats import median, percentile

LEAST_S = 1.0
"""The shortest wait there is: a truth below it counts as this."""


class Promise(msgspec.Struct, frozen=True):
    """A refusal: seconds promised, and seconds until a place was really to be had."""

    told_s: float
    truth_s: float

    @property
    def error(self) -> float:
        """How far off it was, as a part of the truth."""
        return abs(self.told_s - self.truth_s) / self.truth_s


class Honesty(msgspec.Struct, frozen=True):
    """All refusals of a run.

    `silent` came without a Retry-After. `kept` is the part of the first retries that were let
    in; `error_p50` and `error_p90` are relative errors; `told_p50_s` is the median promise.
    `given_up` are requests that were refused every time.
    """

    refused: int
    silent: int
    judged: int
    kept: float
    told_p50_s: float
    error_p50: float
    error_p90: float
    given_up: int


def promises(asked: Sequence[Asked]) -> list[Promise]:
    """Judge the first refusal of every request that was let in later."""
    ends = sorted(one.last.end for one in asked if one.served)
    found: list[Promise] = []
    for one in asked:
        first = one.tries[0]
        if first.refused and first.retry_after is not None and not one.last.refused:
            found.append(Promise(max(LEAST_S, first.retry_after), _truth(one, ends)))
    return found


def _truth(one: Asked, ends: Sequence[float]) -> float:
    first, admitted = one.tries[0], next(each for each in one.tries if not each.refused)
    if len(one.tries) > 1 and one.tries[1] is admitted:
        place = bisect_left(ends, first.end)
        free = ends[place] if place < len(ends) else admitted.sent
        return max(LEAST_S, min(free, admitted.sent) - first.end)
    return max(LEAST_S, admitted.sent - first.end)


def honesty(asked: Sequence[Asked]) -> Honesty:
    """Sum up all refusals."""
    refusals = [one for one in asked if one.tries and one.tries[0].refused]
    tries = [each for one in asked for each in one.tries if each.refused]
    judged = promises(asked)
    retried = [one for one in refusals if len(one.tries) > 1]
    errors = [promise.error for promise in judged]
    return Honesty(
        refused=len(tries),
        silent=sum(each.retry_after is None for each in tries),
        judged=len(judged),
        kept=(
            sum(not one.tries[1].refused for one in retried) / len(retried)
            if retried
            else float("nan")
        ),
        told_p50_s=median([promise.told_s for promise in judged]),
        error_p50=median(errors),
        error_p90=percentile(errors, 90),
        given_up=sum(one.last.refused and len(one.tries) >= TRIES for one in refusals),
    )
