"""A run's figures as tables."""

import math

from rich.console import Console
from rich.table import Table

from benchmarks.fleet.fairness import Gap
from benchmarks.fleet.hits import HitRate
from benchmarks.fleet.summary import Summary
from benchmarks.fleet.watch import Growth
from benchmarks.report import number
from benchmarks.stats import Spread


def percent(value: float) -> str:
    """A part as per cent; a dash where there is none."""
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def show(console: Console, title: str, found: Summary) -> None:
    """Print one run."""
    console.print(_classes(title, found))
    console.print(_shared(found))
    console.print(_service(found))


def _classes(title: str, found: Summary) -> Table:
    table = Table("", *(one.kind for one in found.classes), title=title)
    for name, write in (
        ("requests (answered)", lambda one: f"{one.requests} ({one.answered})"),
        ("given up", lambda one: str(one.given_up)),
        ("first content p50 / p95 / p99 ms", lambda one: _spread(one.ttft)),
        ("the same from the try let in", lambda one: _spread(one.ttft_admitted)),
        ("between tokens p50 / p99 ms", lambda one: _two(one.itl.p50, one.itl.p99)),
        ("answers a minute", lambda one: number(one.answers_per_minute)),
        ("tokens/s", lambda one: number(one.tokens_per_s)),
        ("failed tries", lambda one: _errors(one.errors)),
        ("5xx, hangs", lambda one: f"{one.server_errors}, {one.hangs}"),
    ):
        table.add_row(name, *(write(one) for one in found.classes))
    return table


def _spread(spread: Spread) -> str:
    return " / ".join(number(value, 0) for value in (spread.p50, spread.p95, spread.p99))


def _two(one: float, other: float) -> str:
    return f"{number(one)} / {number(other)}"


def _errors(errors: dict[str, int]) -> str:
    return ", ".join(f"{kind}: {count}" for kind, count in sorted(errors.items())) or "none"


def _shared(found: Summary) -> Table:
    title = "prefix cache, against what requests share with earlier ones (tokens)"
    headings = ("dialect", "requests", "prompts", "shared", "cached", "hit rate", "of prompts")
    table = Table(*headings, "miscounted", "untrue", title=title)
    for name, rate in sorted(found.hits_by_dialect.items()):
        table.add_row(name, *rate_cells(rate))
    table.add_row("all", *rate_cells(found.hits))
    return table


def rate_cells(rate: HitRate) -> list[str]:
    """A hit rate's figures, as cells."""
    return [
        str(rate.requests),
        f"{rate.prompt_tokens:,}",
        f"{rate.shared_tokens:,}",
        f"{rate.cached_tokens:,}",
        percent(rate.rate),
        percent(rate.of_prompts),
        str(rate.miscounted),
        str(rate.untrue),
    ]


def _service(found: Summary) -> Table:
    table = Table(show_header=False)
    told = found.honesty
    for name, text in (
        ("Jain's index over bots", number(found.jain, 3)),
        (
            "widest service gap / 2U",
            _gap(found.gap),
        ),
        ("refusals (without Retry-After)", f"{told.refused} ({told.silent})"),
        ("first retries let in", percent(told.kept)),
        ("Retry-After told p50 s", number(told.told_p50_s)),
        ("its relative error p50 / p90", f"{percent(told.error_p50)} / {percent(told.error_p90)}"),
        ("refused ten times", str(told.given_up)),
        ("memory of the front MB, middle / last third", _growth(found.front)),
        ("memory of workers MB, middle / last third", _growth(found.workers)),
    ):
        table.add_row(name, text)
    return table


def _gap(gap: Gap) -> str:
    return f"{number(gap.widest, 0)} / {number(gap.allowed, 0)} = {number(gap.part, 2)}"


def _growth(grown: Growth) -> str:
    return f"{number(grown.middle_mb)} / {number(grown.last_mb)} ({number(grown.ratio, 3)})"
