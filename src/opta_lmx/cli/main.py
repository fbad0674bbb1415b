"""Entry point `opta-lmx`: puts the command groups together; each imports what it needs on use."""

from collections.abc import Sequence
from typing import Annotated

import typer

from opta_lmx import __version__
from opta_lmx.cli import (
    audit,
    bench,
    chat,
    configure,
    doctor,
    fit,
    keys,
    openclaw,
    quantize,
    quotas,
    running,
    serve,
    store,
    tls,
    usage,
)
from opta_lmx.cli.terminal import TypedErrors

app = typer.Typer(
    name="opta-lmx",
    cls=TypedErrors,
    help="The private inference endpoint that a fleet of bots shares.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables could show keys.
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"opta-lmx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """The private inference endpoint that a fleet of bots shares."""


for group in (
    serve,
    chat,
    store,
    running,
    quantize,
    bench,
    fit,
    doctor,
    configure,
    audit,
    keys,
    tls,
    quotas,
    usage,
    openclaw,
):
    group.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0 done, 1 refused or broken, 2 misused."""
    app(args=None if arguments is None else list(arguments))


if __name__ == "__main__":
    main()
