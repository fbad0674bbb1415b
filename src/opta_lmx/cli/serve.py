"""`serve`: run the server, fetching models that are asked for and not here yet."""

from typing import Annotated

import typer

from opta_lmx.cli.session import ConfigOption, Session, open_session


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(serve)


def serve(
    *,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; else 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port; else 1234.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Model to load before the server is ready; may be repeated.",
        ),
    ] = None,
    config: ConfigOption = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="debug, info, warning or error.")
    ] = None,
) -> None:
    """Run the server until it is told to stop (Ctrl-C or SIGTERM)."""
    session = open_session(config, server__host=host, server__port=port, logging__level=log_level)
    models = [_on_disk(session, name) for name in dict.fromkeys(model or [])]

    from opta_lmx.app import serve as run

    code = run(session.settings, session.home, models)
    if code:
        raise typer.Exit(code)


def _on_disk(session: Session, ref: str) -> str:
    """Make sure a model is there, and say under which name."""
    from opta_lmx.cli.downloads import pull_missing

    # Whoever names a model to be served has decided; a service has nobody to ask.
    return pull_missing(session, ref, yes=True)
