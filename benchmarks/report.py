"""Tables for a terminal and JSON files for keeping."""

import math
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Result

RESULTS = Path(__file__).parent / "results"


def wide_console() -> Console:
    """A console wide enough for the tables where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def number(value: float | None, digits: int = 1) -> str:
    """A figure for a table; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def rows(result: Result) -> list[tuple[str, str]]:
    """A result as (name, figures) lines."""
    errors = ", ".join(f"{kind}: {count}" for kind, count in sorted(result.errors.items()))
    prompt, cached = number(result.prompt_tokens), number(result.cached_tokens)
    lines = [
        ("requests", f"{result.requests} ({errors or 'no errors'})"),
        ("prompt tokens (cached)", f"{prompt} ({cached})"),
        ("tokens", f"{result.tokens} in {number(result.wall_s, 2)} s"),
        ("tokens/s", number(result.tokens_per_s)),
        ("wall ms per token", number(result.ms_per_token, 2)),
        ("TTFT p50 / p95 ms", f"{number(result.ttft.p50)} / {number(result.ttft.p95)}"),
        (
            "ITL p50 / p95 / p99 ms",
            " / ".join(
                number(value, 2) for value in (result.itl.p50, result.itl.p95, result.itl.p99)
            ),
        ),
        ("deltas per token", number(result.deltas_per_token, 3)),
        ("requests with impossible usage", str(result.miscounted)),
    ]
    if result.cpu is not None:
        cpu = result.cpu
        lines += [
            (
                "server CPU ms per token (root process)",
                f"{number(cpu.server_ms_per_token, 2)} ({number(cpu.root_ms_per_token, 2)})",
            ),
            ("client CPU ms per token", number(cpu.client_ms_per_token, 3)),
            ("cores busy with other work", number(cpu.foreign_cores, 2)),
            ("peak memory of the server MB", number(result.peak_rss_mb, 0)),
        ]
    return lines


def print_result(console: Console, title: str, result: Result) -> None:
    """Print one result as a table."""
    table = Table(title=title, show_header=False)
    for name, figures in rows(result):
        table.add_row(name, figures)
    console.print(table)


def to_json(content: Any) -> str:
    """Readable JSON with a line end; NaN becomes null."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"


def save(name: str, content: Any, folder: Path = RESULTS) -> Path:
    """Write a result as JSON under the results folder; return where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(to_json(content), "utf-8")
    return path
