"""Commands about the running server: `ps`, `load`, `unload`, `reset`."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, KeyOption, UrlOption

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(ps)
    app.command()(load)
    app.command()(unload)
    app.command()(reset)


def ps(
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models the server has loaded."""
    from opta_lmx.cli.client import connect
    from opta_lmx.cli.terminal import print_json, table

    with connect(config, url, api_key) as client:
        status = client.get("/admin/status")
    if as_json:
        print_json(status)
        return
    models: list[dict[str, Any]] = status.get("models", [])
    columns = {"MODEL": False, "BACKEND": False, "STATE": False, "CONTEXT": True, "SLOTS": True}
    columns |= {"RUNNING": True, "WAITING": True, "RESTARTS": True, "PID": True, "MEMORY": True}
    if models:
        table(columns, [_row(model) for model in models])
    else:
        typer.echo("No model is loaded.")
    for one in status.get("quarantine", []):
        typer.echo(
            f"{one['model']} is quarantined: {one['message']} (opta-lmx reset {one['model']})"
        )
    if status.get("safe_mode"):
        typer.echo("Safe mode after repeated crashes: nothing is loaded unasked.")
    typer.echo(f"Opta LMX {status.get('version', '')}, up {_duration(status.get('uptime_s', 0))}")


def load(
    name: NameArgument,
    backend: Annotated[
        str | None, typer.Option("--backend", help="Engine to run it on: mlx or gguf.")
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Load a model into the running server; returns when it is ready."""
    from opta_lmx.cli.client import LOAD_READ_S, connect
    from opta_lmx.cli.terminal import console

    body = {"model": name} | ({"backend": backend} if backend else {})
    with connect(config, url, api_key) as client, console(err=True).status(f"Loading {name}…"):
        client.post("/admin/models/load", body, read_s=LOAD_READ_S)
    typer.echo(f"{name} is loaded.")


def unload(
    name: NameArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Unload a model from the running server and give its memory back."""
    from opta_lmx.cli.client import connect

    with connect(config, url, api_key) as client:
        client.post("/admin/models/unload", {"model": name})
    typer.echo(f"{name} is unloaded.")


def reset(
    name: NameArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Let a model in again that the running server quarantined for its crashes."""
    from opta_lmx.cli.client import connect

    with connect(config, url, api_key) as client:
        answer = client.post(f"/admin/models/{quote(name, safe='')}/reset", {})
    was = answer.get("was_quarantined")
    typer.echo(f"{name} is let in again." if was else f"{name} was not quarantined.")


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    from opta_lmx.cli.terminal import size

    keys = ("id", "backend", "state", "context_length", "slots", "running", "waiting", "restarts")
    memory = model.get("rss_bytes")
    return (
        *(str(model.get(key, "")) for key in keys),
        str(model.get("pid") or "-"),
        size(memory) if memory else "-",
    )


def _duration(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s"
