"""`openclaw config`: connect OpenClaw to this server with the window its model truly has."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from opta_lmx.cli.session import (
    ConfigOption,
    KeyOption,
    Session,
    UrlOption,
    clients_key_for,
    open_session,
)
from opta_lmx.core.errors import ErrorKind, LmxError

if TYPE_CHECKING:
    from opta_lmx.cli.openclaw_file import Served

_KEY_PLACEHOLDER = "PUT-ONE-OF-YOUR-API-KEYS-HERE"

group = typer.Typer(help="Connect OpenClaw to this server.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="openclaw")


@group.callback()
def _root() -> None:
    """Connect OpenClaw to this server."""


@group.command("config")
def config_block(
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model to offer; else the first one.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Longest answer; else a quarter of the window."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put it into OpenClaw's own file, with a backup.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Print a provider block for OpenClaw, or write it with --write."""
    from opta_lmx.cli import openclaw_file as file
    from opta_lmx.cli.terminal import note, print_json

    session = open_session(config)
    own_key = clients_key_for(session, url)
    # OpenClaw will see what the key lets it see: so the server is asked with that very key.
    served = _served(session, model, url, api_key or own_key)
    served = served._replace(max_tokens=max_tokens or served.max_tokens)
    if served.context < file.FIRST_TURN_TOKENS:
        note(
            f"warning: {served.id} has a window of {served.context} tokens; a first turn of an "
            f"OpenClaw gateway needs about {file.FIRST_TURN_TOKENS}"
        )
    if not write:
        shown = api_key or (_KEY_PLACEHOLDER if own_key else file.NO_KEY)
        block = file.provider_block(url or session.server_url, shown, [served])
        print_json(file.merged({}, block, served.id))
        return
    block = file.provider_block(
        url or session.server_url, api_key or own_key or file.NO_KEY, [served]
    )
    path = file.config_path(os.environ)
    backup = file.write_merged(path, block, served.id)
    typer.echo(f"{path} offers {file.PROVIDER}/{served.id}.")
    if backup is not None:
        typer.echo(f"What was there before is in {backup}.")


def _served(session: Session, model: str | None, url: str | None, key: str | None) -> "Served":
    """What is true of the model: from the server, else (with no `url`) from the store."""
    from opta_lmx.cli.chat import default_model
    from opta_lmx.cli.client import ServerClient
    from opta_lmx.cli.trust import own_trust

    with ServerClient(url or session.server_url, key, own_trust(session, url)) as client:
        try:
            facts = client.model(model or default_model(client))
        except LmxError as error:
            if url is not None or error.code != "server_unreachable":
                raise
            return _stored(session, model)
    context = facts.get("context_length")
    if not isinstance(context, int) or context < 1:
        raise LmxError(
            ErrorKind.UPSTREAM_FAILED,
            "The server does not say how long the model's window is; is it an Opta LMX server?",
            code="not_our_server",
        )
    return _announced(str(facts.get("id", model)), context)


def _stored(session: Session, model: str | None) -> "Served":
    from opta_lmx.cli.local import open_store, window

    store = open_store(session)
    if model is None:
        model = next((one.name for one in store.list() if one.broken is None), None)
    if model is None:
        raise LmxError(
            ErrorKind.MODEL_NOT_FOUND,
            "No server answers and no model is on disk; get one with: opta-lmx pull starter-long",
            code="no_models",
        )
    entry = store.get(model)
    return _announced(entry.name, window(session, entry))


def _announced(name: str, context: int) -> "Served":
    from opta_lmx.cli.openclaw_file import Served, answer_limit

    return Served(name, context, answer_limit(context))
