"""`serve`: run the server, fetching models that are asked for and not here yet."""

import os
import signal
import threading
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
    leash: Annotated[
        bool, typer.Option("--leash", hidden=True, help="End when standard input ends.")
    ] = False,
) -> None:
    """Run the server until it is told to stop (Ctrl-C or SIGTERM)."""
    if leash:
        _hold_leash()
    session = open_session(config, server__host=host, server__port=port, logging__level=log_level)
    models = [_on_disk(session, name) for name in dict.fromkeys(model or [])]

    from opta_lmx.app import serve as run

    code = run(session.settings, session.home, models)
    if code:
        raise typer.Exit(code)


def _hold_leash() -> None:
    """Stop in order when standard input ends: then whoever began this server is gone."""

    def follow() -> None:
        # Not through `sys.stdin`: its lock, held here, would abort the interpreter's own end.
        while os.read(0, 1 << 10):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    # Until the server hears signals itself, one must not keep it from tidying up.
    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=follow, name="leash", daemon=True).start()


def _on_disk(session: Session, ref: str) -> str:
    """Make sure a model is there, and say under which name."""
    from opta_lmx.cli.downloads import pull_missing

    # Whoever names a model to be served has decided; a service has nobody to ask.
    return pull_missing(session, ref, yes=True)
