"""Commands on the models on disk: `pull`, `add`, `models`, `rm`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, Session, key_for, open_session
from opta_lmx.core.errors import ErrorKind, LmxError, invalid

if TYPE_CHECKING:
    from opta_lmx.models.store import ModelEntry, ModelStore


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(pull)
    app.command()(add)
    app.command("models")(list_models)
    app.command("rm")(remove)


def pull(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="starter, starter-long, or a hub id: ORG/NAME.")
    ],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, however large it is.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Fetch a model; a pull that was cut short goes on where it stopped."""
    from opta_lmx.cli.downloads import pull_shown

    entry = pull_shown(open_session(config), ref, yes=yes)
    typer.echo(f"{entry.name} is in the store ({_summary(entry)}).")


def add(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A .gguf file or model folder.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name to give it; else the file's own.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Take a model from a local file or folder into the store."""
    from opta_lmx.cli.downloads import add_shown

    entry = add_shown(open_session(config), path, name)
    typer.echo(f"{entry.name} is in the store ({_summary(entry)}).")


def list_models(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the models on disk, and which of them the server has loaded."""
    from opta_lmx.cli.local import open_store, window
    from opta_lmx.cli.terminal import print_json, size, table

    session = open_session(config)
    entries = open_store(session).list()
    states = _states(session)
    facts = [
        {
            "name": entry.name,
            "format": entry.format,
            "quantisation": entry.info.quantisation,
            "architecture": entry.info.architecture,
            "size_bytes": entry.size_bytes,
            "context_length": window(session, entry),
            "state": f"broken: {entry.broken}" if entry.broken else states.get(entry.name, "-"),
        }
        for entry in entries
    ]
    if as_json:
        print_json(facts)
        return
    if not facts:
        typer.echo("No model is on disk; get one with: opta-lmx pull starter")
        return
    columns = {"NAME": False, "FORMAT": False, "QUANT": False, "SIZE": True, "CONTEXT": True}
    keys = ("name", "format", "quantisation", "size_bytes", "context_length", "state")
    rows = [tuple(str(fact[key]) for key in keys) for fact in facts]
    table(
        columns | {"STATE": False},
        [(*row[:3], size(float(row[3])), *row[4:]) for row in rows],
    )


def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete a model from disk."""
    from opta_lmx.cli.local import open_store
    from opta_lmx.cli.terminal import interactive, size

    session = open_session(config)
    store = open_store(session)
    entry = next((one for one in store.list() if one.name == name), None)
    if entry is None:
        raise LmxError(
            ErrorKind.MODEL_NOT_FOUND, f"The model '{name}' is not on disk", param="model"
        )
    if not yes:
        if not interactive():
            raise invalid("Deleting without a terminal needs --yes", param="yes")
        typer.confirm(f"Delete {entry.name} ({size(entry.size_bytes)})?", abort=True)
    freed = _deleted(session, store, entry)
    typer.echo(f"{entry.name} is deleted; {size(freed)} are free again.")


def _deleted(session: Session, store: "ModelStore", entry: "ModelEntry") -> int:
    """Delete by the server of this store, which knows who uses the model, where one runs."""
    from opta_lmx.cli.client import ServerClient
    from opta_lmx.cli.trust import own_trust

    own = session.server_url, key_for(session, None), own_trust(session)
    with ServerClient(*own) as client:
        try:
            stored: list[dict[str, Any]] = client.get("/admin/models/available").get("data", [])
        except LmxError as error:
            if error.code != "server_unreachable":
                raise
            stored = []
        same = (entry.name, entry.created_ms)
        if not any((one["name"], one["created_ms"]) == same for one in stored):
            return store.delete(entry.name)
        return int(client.delete(f"/admin/models/{quote(entry.name)}")["freed_bytes"])


def _summary(entry: "ModelEntry") -> str:
    from opta_lmx.cli.terminal import size

    return f"{entry.format}, {entry.info.quantisation}, {size(entry.size_bytes)}"


def _states(session: Session) -> dict[str, str]:
    """State and backend of each loaded model, by name; empty where no server answers."""
    from opta_lmx.cli.client import ServerClient
    from opta_lmx.cli.trust import own_trust
    from opta_lmx.models.names import split_ref

    try:
        own = session.server_url, key_for(session, None), own_trust(session)
        with ServerClient(*own) as client:
            loaded = client.get("/admin/status").get("models", [])
    except LmxError:
        # Whatever listens there, it is no server of ours that has these models loaded.
        return {}
    states: dict[str, list[str]] = {}
    for one in loaded:
        name, _ = split_ref(str(one["id"]))
        states.setdefault(name, []).append(f"{one['state']} ({one['backend']})")
    return {name: ", ".join(found) for name, found in states.items()}
