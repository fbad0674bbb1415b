"""What every command needs of the terminal: consoles, error lines, plain words for sizes."""

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from opta_lmx.core.errors import LmxError

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_WHEN_PIPED = 200
_UNITS = ("B", "kB", "MB", "GB", "TB")


class TypedErrors(TyperGroup):
    """A command group whose refusals are one red line and exit code 1, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn typed errors and those of the file system into a line."""
        try:
            return super().invoke(ctx)
        except LmxError as error:
            complain(describe(error))
        except BrokenPipeError:
            # The reader of a pipe has gone; a second failure at exit would be noise.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        except OSError as error:
            complain(f"{error.filename or 'system'}: {error.strerror or error}")
        raise typer.Exit(1)


def describe(error: LmxError) -> str:
    """An error as one line: its message, code, and when to try again."""
    text = f"{error.message} [{error.code}]"
    if error.retry_after is not None:
        text += f" (retry after {error.retry_after:g} s)"
    return text


def complain(message: str) -> None:
    """Print one line to stderr, red where that is a terminal."""
    line = " ".join(printable(message).split())
    typer.secho(f"error: {line}", fg=typer.colors.RED, err=True)


def note(message: str) -> None:
    """Print a remark to stderr, so that stdout stays the command's result."""
    typer.secho(printable(message), fg=typer.colors.YELLOW, err=True)


def console(*, err: bool = False) -> "Console":
    """A rich console; wide where nobody's window bounds it."""
    from rich.console import Console

    found = Console(stderr=err, highlight=False, markup=False)
    return (
        found
        if found.is_terminal
        else Console(stderr=err, highlight=False, markup=False, width=_WIDTH_WHEN_PIPED)
    )


def table(columns: dict[str, bool], rows: list[tuple[str, ...]]) -> None:
    """Print rows under headings; a column marked True is aligned to the right."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading, right in columns.items():
        grid.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(printable(cell) for cell in row))
    console().print(grid)


def print_json(value: object) -> None:
    """Print a value as JSON for other programs."""
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """`text` without control characters, which could drive the terminal; tab and newline stay."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def size(count: float) -> str:
    """Bytes in decimal units: `98.4 MB`."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def interactive() -> bool:
    """True where a person sits at the terminal."""
    with contextlib.suppress(ValueError):
        return sys.stdin.isatty() and sys.stdout.isatty()
    return False
