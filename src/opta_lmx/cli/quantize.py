"""The command `quantize`: a smaller model of one that is on disk."""

from typing import Annotated

import typer

from opta_lmx.cli.session import ConfigOption, KeyOption, UrlOption, open_session


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(quantize)


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model on disk.")],
    *,
    bits: Annotated[int | None, typer.Option("--bits", help="2, 3, 4, 5, 6 or 8; else 4.")] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="Weights that share a scale; else 64.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="affine, mxfp4, mxfp8 or nvfp4; else affine.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the new model; else MODEL-4bit or so.")
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a smaller MLX model of one on disk; Ctrl-C ends it, and leaves nothing."""
    from opta_lmx.cli.client import connect
    from opta_lmx.cli.quantising import quantise, say_made, shown
    from opta_lmx.engine.quantise_jobs import Wish

    wish = Wish(model, name, mode, bits, group_size)
    session = None if url is not None else open_session(config)
    with shown(model) as show, connect(config, url, api_key) as client:
        job = quantise(client, session, wish, show)
    say_made(job)
