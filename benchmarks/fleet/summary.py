"""The figures of one run of a fleet."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from benchmarks.fleet import fairness, promises
from benchmarks.fleet.asking import Asked
from benchmarks.fleet.drive import BOT, JOB, Played
from benchmarks.fleet.hits import HitRate, Shared, hit_rate, look
from benchmarks.fleet.rendering import Counter as TokenCounter
from benchmarks.fleet.rendering import render
from benchmarks.fleet.watch import Growth, Sample, growth
from benchmarks.stats import Spread

_HANG = "timeout"


class Class(msgspec.Struct, frozen=True):
    """One class of callers. Times in ms; rates per minute and per second of the run.

    `ttft` is from the first try to the first content, waiting for a place included;
    `ttft_admitted` from the try that was let in. `errors` counts failed tries by kind, refusals
    among them; `given_up` requests that never got an answer, those cut off by the end of the
    run not counted.
    """

    kind: str
    requests: int
    answered: int
    given_up: int
    ttft: Spread
    ttft_admitted: Spread
    itl: Spread
    answers_per_minute: float
    tokens_per_s: float
    errors: dict[str, int]
    server_errors: int
    hangs: int


class Summary(msgspec.Struct, frozen=True):
    """All figures of a run."""

    duration_s: float
    classes: list[Class]
    jain: float
    gap: fairness.Gap
    hits: HitRate
    hits_by_dialect: dict[str, HitRate]
    honesty: promises.Honesty
    unfinished: int
    front: Growth
    workers: Growth
    samples: list[Sample]

    def of(self, kind: str) -> Class:
        """One class by its name. Raises StopIteration where it took no part."""
        return next(one for one in self.classes if one.kind == kind)


def class_of(kind: str, asked: Sequence[Asked], played: Played) -> Class:
    """Sum up one class; rates count what ended within the run's time."""
    served = [one for one in asked if one.served]
    in_time = [one for one in served if one.last.end <= played.end]
    duration = max(1e-9, played.end - played.start)
    tries = [each for one in asked for each in one.tries]
    errors = Counter(each.error for each in tries if each.error is not None)
    tokens = sum(one.last.counts.completion or len(one.last.stamps) for one in in_time)
    return Class(
        kind=kind,
        requests=len(asked),
        answered=len(served),
        given_up=sum(not one.served and not _cut_short(one, played) for one in asked),
        ttft=Spread.of_seconds([one.ttft for one in served if one.ttft is not None]),
        ttft_admitted=Spread.of_seconds(
            [one.last.first - one.last.sent for one in served if one.last.first is not None]
        ),
        itl=Spread.of_seconds([pause for one in served for pause in one.last.gaps]),
        answers_per_minute=len(in_time) * 60 / duration,
        tokens_per_s=tokens / duration,
        errors=dict(errors),
        server_errors=sum(each.status >= 500 for each in tries),
        hangs=errors[_HANG],
    )


def _cut_short(one: Asked, played: Played) -> bool:
    """True when a refused request would have been tried again, had the run gone on."""
    wait = one.last.retry_after
    return one.last.refused and wait is not None and one.last.end + wait > played.end


def summarise(
    played: Played, counter: TokenCounter, samples: list[Sample], slots: int, *, joined: bool = True
) -> Summary:
    """Work out a run's figures.

    Args:
        played: the run.
        counter: counts the model's tokens.
        samples: of the server's memory.
        slots: rows the server decodes at once.
        joined: the server merges neighbouring turns of one role.
    """
    bots, jobs = played.of(BOT), played.of(JOB)
    by_bot: dict[str, list[Asked]] = defaultdict(list)
    for one in bots:
        by_bot[one.who].append(one)
    shared = shared_by_dialect(bots, counter, joined=joined)
    service = [fairness.service_of(asked).total for asked in by_bot.values()]
    return Summary(
        duration_s=played.end - played.start,
        classes=[
            class_of(kind, found, played) for kind, found in ((BOT, bots), (JOB, jobs)) if found
        ],
        jain=fairness.jain(service),
        gap=fairness.gap(by_bot, slots),
        hits=hit_rate(row for rows in shared.values() for row in rows),
        hits_by_dialect={name: hit_rate(rows) for name, rows in shared.items()},
        honesty=promises.honesty([*bots, *jobs]),
        unfinished=played.unfinished,
        front=growth(samples, "front"),
        workers=growth(samples, "workers"),
        samples=samples,
    )


def shared_by_dialect(
    asked: Sequence[Asked], counter: TokenCounter, *, joined: bool
) -> dict[str, list[Shared]]:
    """What answered requests shared with earlier ones, by dialect."""
    served = [one for one in asked if one.served]
    ids = counter.ids([render(one.ask, joined=joined) for one in served])
    found: dict[str, list[Shared]] = defaultdict(list)
    for one, row in zip(served, look(served, ids), strict=True):
        found[one.ask.dialect].append(row)
    return dict(found)
