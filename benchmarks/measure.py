"""One measured run: drive a plan, count CPU and memory around it, and sum it up."""

import gc
import os
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from benchmarks import procs
from benchmarks.arrivals import Outcome, Plan, drive
from benchmarks.client import Record, Target
from benchmarks.prompts import PromptMaker
from benchmarks.stats import Spread


class Cpu(msgspec.Struct, frozen=True):
    """CPU of a run, in ms per token: the server's tree, its root process alone, the client.

    `foreign_cores` is how many cores everything else on the machine kept busy meanwhile (None
    where it cannot be known).
    """

    server_ms_per_token: float
    root_ms_per_token: float
    client_ms_per_token: float
    foreign_cores: float | None


class Result(msgspec.Struct, frozen=True):
    """A run's figures. Durations in ms; `ttft` is of the late comers when the batch was busy.

    `itl` are the gaps between deltas of all requests but the late comers. `deltas_per_token` is
    below 1 where the server joins tokens, and `miscounted` counts requests whose usage cannot be
    true of the deltas sent.
    """

    requests: int
    errors: dict[str, int]
    tokens: int
    wall_s: float
    tokens_per_s: float
    ms_per_token: float
    ttft: Spread
    itl: Spread
    prompt_tokens: float
    cached_tokens: float
    deltas_per_token: float
    miscounted: int
    cpu: Cpu | None = None
    peak_rss_mb: float | None = None


class Meter:
    """CPU seconds at one moment: of the server's tree, this process and the whole machine."""

    def __init__(self, pid: int | None) -> None:
        self.tree = procs.sample(pid) if pid is not None else None
        times = os.times()
        self.client_s = times.user + times.system
        self.machine_s = procs.machine_busy_s()
        self.at = time.perf_counter()


def cpu_between(before: Meter, after: Meter, tokens: int) -> Cpu | None:
    """CPU per token between two moments; None when no server process was given."""
    if before.tree is None or after.tree is None:
        return None
    server_s = after.tree.cpu_s - before.tree.cpu_s
    client_s = after.client_s - before.client_s
    foreign = None
    if before.machine_s is not None and after.machine_s is not None:
        busy_s = after.machine_s - before.machine_s - server_s - client_s
        foreign = max(0.0, busy_s / (after.at - before.at))
    per_token = 1000 / max(1, tokens)
    own_s = after.tree.own_cpu_s - before.tree.own_cpu_s
    return Cpu(server_s * per_token, own_s * per_token, client_s * per_token, foreign)


def summarise(outcome: Outcome) -> Result:
    """Sum up the records of a run; wall time is from the first request to the last byte."""
    records = outcome.main + outcome.late
    served = [record for record in records if record.error is None]
    tokens = sum(record.tokens for record in records)
    deltas = sum(len(record.stamps) for record in records)
    wall_s = _wall(records)
    first = outcome.late or outcome.main
    return Result(
        requests=len(records),
        errors=dict(Counter(record.error for record in records if record.error is not None)),
        tokens=tokens,
        wall_s=wall_s,
        tokens_per_s=tokens / wall_s if wall_s else float("nan"),
        ms_per_token=wall_s * 1000 / tokens if tokens else float("nan"),
        ttft=Spread.of_seconds([r.ttft for r in first if r.ttft is not None]),
        itl=Spread.of_seconds([gap for record in outcome.main for gap in record.gaps]),
        prompt_tokens=_mean([record.prompt_tokens for record in served]),
        cached_tokens=_mean([record.cached_tokens for record in served]),
        deltas_per_token=deltas / tokens if tokens else float("nan"),
        miscounted=sum(record.miscounted for record in records),
    )


def _wall(records: Sequence[Record]) -> float:
    if not records:
        return 0.0
    return max(record.end for record in records) - min(record.start for record in records)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else float("nan")


async def measure(
    target: Target, plan: Plan, prompts: PromptMaker, pid: int | None = None
) -> Result:
    """Drive the plan and return its figures; `pid` is the server's root process, if known."""
    gc.collect()
    gc.disable()
    try:
        before = Meter(pid)
        outcome = await drive(target, plan, prompts)
        after = Meter(pid)
    finally:
        gc.enable()
    result = summarise(outcome)
    peak = after.tree.peak_rss / 2**20 if after.tree is not None else None
    cpu = cpu_between(before, after, result.tokens)
    return msgspec.structs.replace(result, cpu=cpu, peak_rss_mb=peak)
