"""Plays many seeds and says what held: `python -m tests.support.fleet_run FIRST LAST`.

A third argument `fcfs` plays first come, first served instead, for comparison; `cramped` plays
machines without memory for the caches of all slots.
"""

import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from tests.support.fleet_scenarios import cramped_scenario, random_scenario
from tests.support.fleet_sim import FirstComeLine, fair, play

_CHUNK = 50


@dataclass
class Findings:
    """What many seeds gave.

    `gaps` are widest service gaps as parts of what is allowed, `errors` the relative errors of
    Retry-After, `faults` what did not hold, by seed.
    """

    seeds: int = 0
    faults: dict[int, list[str]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    refusals: int = 0
    pauses: int = 0
    busy_s: float = 0.0
    lost_s: float = 0.0

    def add(self, other: "Findings") -> None:
        """Take in the findings of other seeds."""
        self.seeds += other.seeds
        self.faults.update(other.faults)
        self.gaps += other.gaps
        self.errors += other.errors
        self.refusals += other.refusals
        self.pauses += other.pauses
        self.busy_s += other.busy_s
        self.lost_s += other.lost_s

    @property
    def unfair(self) -> list[int]:
        """Seeds in which somebody got too far ahead."""
        return [seed for seed, faults in self.faults.items() if any("apart" in f for f in faults)]

    @property
    def retry_error(self) -> float:
        """Median relative error of Retry-After."""
        return statistics.median(self.errors)

    def __str__(self) -> str:
        found = [f"seed {seed}: {'; '.join(what)}" for seed, what in sorted(self.faults.items())]
        gaps = sorted(self.gaps)
        return "\n".join(
            [
                *found[:20],
                f"{self.seeds} seeds, {len(found)} with faults, {len(self.unfair)} unfair",
                (
                    f"gap / 2(U+Q): median {statistics.median(gaps):.2f}, "
                    f"p99 {gaps[int(0.99 * len(gaps))]:.2f}, most {gaps[-1]:.2f}"
                ),
                (
                    f"Retry-After: {self.refusals} refusals, {len(self.errors)} judged, "
                    f"median error {self.retry_error:.3f}"
                ),
                (
                    f"{self.busy_s:.0f} slot seconds of work, {self.lost_s:.2f} lost; "
                    f"{self.pauses} rows paused"
                ),
            ]
        )


def survey(seeds: Iterable[int], policy: str = "fair") -> Findings:
    """Play seeds one after the other."""
    found = Findings()
    make = cramped_scenario if policy == "cramped" else random_scenario
    for seed in seeds:
        watch = play(make(seed), FirstComeLine if policy == "fcfs" else fair)
        faults = watch.faults()
        gaps = [gap.widest for gap in (*watch.client_gaps.values(), *watch.key_gaps.values())]
        one = Findings(
            1,
            {seed: faults} if faults else {},
            [max(gaps) / watch.bound()] if gaps else [],
            watch.places.errors,
            watch.places.refusals,
            watch.pauses,
            watch.busy_s,
            watch.lost_s,
        )
        found.add(one)
    return found


def survey_many(first: int, last: int, policy: str = "fair", processes: int = 2) -> Findings:
    """Play seeds from `first` up to, not including, `last`, in several processes."""
    chunks = [range(at, min(at + _CHUNK, last)) for at in range(first, last, _CHUNK)]
    found = Findings()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for part in pool.map(partial(survey, policy=policy), chunks):
            found.add(part)
    return found


if __name__ == "__main__":
    print(survey_many(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4]))
