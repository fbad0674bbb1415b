"""Whether Retry-After told the truth: the time promised beside the time a place was to be had.

A client cannot see the line, but it sees its key's requests. Places are left by those that begin
to be answered: so the first of these after a refusal left the place of who was refused first, the
second that of the next. Where the retry was refused again, there was none for it until the try
that was let in.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

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
    of_key: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        of_key[one.key].append(one)
    return [promise for own in of_key.values() for promise in _of_one_key(own)]


def _of_one_key(asked: Sequence[Asked]) -> Iterator[Promise]:
    begun = sorted(each.first for one in asked for each in one.tries if each.first is not None)
    back = [(one.tries[0].end, _let_in(one)) for one in asked if one.tries and one.tries[0].refused]
    for one in asked:
        first = one.tries[0] if one.tries else None
        if first is None or first.retry_after is None or not first.refused or one.last.refused:
            continue
        told = max(LEAST_S, first.retry_after)
        if one.tries[1].refused:
            yield Promise(told, max(LEAST_S, _let_in(one) - first.end))
            continue
        before = sum(came < first.end < let_in for came, let_in in back)
        place = bisect_right(begun, first.end) + before
        free = begun[place] if place < len(begun) else _let_in(one)
        yield Promise(told, max(LEAST_S, min(free, _let_in(one)) - first.end))


def _let_in(one: Asked) -> float:
    """When the try was sent that was not refused; never, if all were."""
    return next((each.sent for each in one.tries if not each.refused), math.inf)


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
