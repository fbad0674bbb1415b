"""A fleet as `make soak` has it, for the simulated line: bots of one key, jobs of another.

Everybody asks again when answered or given up, so the machine is always full, and the line too.
"""

import random

from opta_lmx.core.principal import Caller, Lane, Principal
from opta_lmx.scheduling.rules import LineRules, Work
from tests.support.fleet_scenarios import Asked, Scenario

BOTS, JOBS = Principal(key="fleet-key"), Principal(key="jobs-key")
_DURATION_S = 600.0
_THINK_S = 5.0
_ANNOYED_S = 5.0


def soak_scenario(
    seed: int, *, bots: int = 40, jobs: int = 8, slots: int = 8, queue: int = 8
) -> Scenario:
    """Bots with a client each, and one client with several threads in the background."""
    rng = random.Random(seed)
    callers = [Caller(BOTS, f"bot-{number}") for number in range(bots)]
    callers += [Caller(JOBS, "jobs", Lane.BACKGROUND)] * jobs
    asked = sorted((_ask(rng, one, rng.uniform(0, 5)) for one in callers), key=lambda one: one.at)
    return Scenario(
        seed,
        LineRules(max_waiting=queue, preemptible=True, several_keys=True),
        slots,
        prefill=90.0,
        decode=23.0,
        step=8,
        asked=tuple(asked),
        tries=10,
        following=_next,
    )


def _ask(rng: random.Random, caller: Caller, at: float) -> Asked:
    if caller.lane is Lane.BACKGROUND:
        work, answer = Work(400, 0, 160), rng.randint(140, 160)
    else:
        prompt = rng.randint(1200, 1800)
        work, answer = Work(prompt, int(prompt * rng.uniform(0.5, 0.9)), 160), rng.randint(60, 160)
    return Asked(at, caller, work, answer, rng.uniform(0, 0.02), None)


def _next(rng: random.Random, one: Asked, now: float, *, served: bool) -> Asked | None:
    if now >= _DURATION_S:
        return None
    pause = _ANNOYED_S if not served else 0.0
    if one.caller.lane is not Lane.BACKGROUND:
        pause += rng.expovariate(1 / _THINK_S)
    return _ask(rng, one.caller, now + pause)
