"""The table at the end."""

from collections.abc import Sequence

from scripts.openclaw.turns import Result

_HEAD = ("mode", "case", "result", "exit", "requests", "statuses", "seconds")


def render(version: str, results: Sequence[Result]) -> str:
    """Everything as Markdown: the table, then what went wrong, then the drift."""
    rows = [_HEAD, tuple("-" * len(name) for name in _HEAD), *(_row(one) for one in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [f"OpenClaw {version}", ""]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    problems = [f"{one.mode}, {one.case}: {text}" for one in results for text in one.problems]
    drift = dict.fromkeys(f"{one.mode}: {text}" for one in results for text in one.drift)
    for title, found in (("Not as it must be", problems), ("Drift", list(drift))):
        if found:
            lines += ["", f"{title}:", "", *(f"- {line}" for line in found)]
    return "\n".join(lines)


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.mode,
        result.case,
        "FAILED" if result.problems else "drift" if result.drift else "ok",
        "none" if result.status is None else str(result.status),
        str(len(result.statuses)),
        " ".join(str(status) for status in result.statuses),
        f"{result.seconds:.1f}",
    )
