"""The comparison's tables: ratios beside their targets, and what the server itself costs."""

from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Ratio, Round, against_peer, against_raw, counted
from benchmarks.measure import Result
from benchmarks.report import number
from benchmarks.stats import median


class Line(msgspec.Struct, frozen=True):
    """One compared figure; `goal` is the ratio wanted, `larger` whether more is better."""

    scenario: str
    title: str
    figure: Callable[[Result], float]
    larger: bool = True
    goal: float | None = None


TARGETED = "mlx_lm.server"

LINES = (
    Line("c1", "tokens/s", lambda r: r.tokens_per_s),
    Line("c1", "TTFT p50 ms", lambda r: r.ttft.p50, larger=False),
    Line("c8 burst", "tokens/s", lambda r: r.tokens_per_s, goal=1.3),
    Line("c8 burst", "TTFT p50 ms", lambda r: r.ttft.p50, larger=False),
    Line("c8 burst", "ITL p99 ms", lambda r: r.itl.p99, larger=False),
    Line("c8 staggered", "tokens/s", lambda r: r.tokens_per_s),
    Line("c8 staggered", "TTFT p50 ms", lambda r: r.ttft.p50, larger=False),
    Line("c8 staggered", "ITL p99 ms", lambda r: r.itl.p99, larger=False),
    Line("busy", "TTFT p50 ms", lambda r: r.ttft.p50, larger=False, goal=0.5),
    Line("busy", "TTFT p95 ms", lambda r: r.ttft.p95, larger=False),
    Line("busy", "ITL p99 ms", lambda r: r.itl.p99, larger=False),
    Line("busy", "tokens/s", lambda r: r.tokens_per_s),
)


def verdict(line: Line, ratio: Ratio) -> str:
    """`OK`, or `below` its target, or nothing where there is no target."""
    if line.goal is None:
        return ""
    good = ratio.ratio >= line.goal if line.larger else ratio.ratio <= line.goal
    sign = ">=" if line.larger else "<="
    return f"{'OK' if good else 'below'} ({sign} {line.goal})"


def show(console: Console, peer: str, rounds: list[Round]) -> None:
    """Print all tables of one comparison; the targets are those against `TARGETED`."""
    console.print(_ratios(peer, rounds))
    if any(played.raw for played in rounds):
        console.print(_over_raw(rounds))
    console.print(_costs(peer, rounds))


def _ratios(peer: str, rounds: list[Round]) -> Table:
    title = f"this server / {peer}, median of {len(counted(rounds))} rounds"
    table = Table("scenario", "figure", "ours", peer, "ratio", "range", "target", title=title)
    for line in LINES:
        ratio = against_peer(rounds, line.scenario, line.figure)
        table.add_row(
            line.scenario,
            line.title,
            number(ratio.ours),
            number(ratio.theirs),
            number(ratio.ratio, 2),
            f"{number(ratio.low, 2)}-{number(ratio.high, 2)}",
            verdict(line, ratio) if peer == TARGETED else "",
        )
    return table


def _over_raw(rounds: list[Round]) -> Table:
    headings = ("scenario", "ours tokens/s", "raw loop tokens/s", "ratio", "range", "ms over raw")
    table = Table(*headings, title="this server / bare BatchGenerator loop, per token")
    for scenario in rounds[0].raw:
        speed, over_ms = against_raw(rounds, scenario)
        table.add_row(
            scenario,
            number(speed.ours),
            number(speed.theirs),
            number(speed.ratio, 2),
            f"{number(speed.low, 2)}-{number(speed.high, 2)}",
            number(over_ms, 2),
        )
    return table


def _costs(peer: str, rounds: list[Round]) -> Table:
    title = "CPU ms per token, peak memory, and what else the machine did"
    headings = ("scenario", "side", "all processes", "root process", "client", "peak MB", "others")
    table = Table(*headings, title=title)
    kept = counted(rounds)
    for scenario in rounds[0].ours:
        for side, results in (
            ("ours", [played.ours[scenario] for played in kept]),
            (peer, [played.theirs[scenario] for played in kept]),
        ):
            table.add_row(scenario, side, *_cost(results))
    return table


def _cost(results: list[Result]) -> list[str]:
    cpus = [result.cpu for result in results if result.cpu is not None]
    foreign = [cpu.foreign_cores for cpu in cpus if cpu.foreign_cores is not None]
    return [
        number(median(cpu.server_ms_per_token for cpu in cpus), 2),
        number(median(cpu.root_ms_per_token for cpu in cpus), 2),
        number(median(cpu.client_ms_per_token for cpu in cpus), 3),
        number(median(r.peak_rss_mb for r in results if r.peak_rss_mb is not None), 0),
        f"{number(median(foreign), 1)} cores",
    ]
