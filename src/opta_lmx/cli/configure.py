"""Commands about the configuration: `config explain`, `config path`."""

from typing import Annotated

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, open_session
from opta_lmx.core.errors import LmxError, invalid

group = typer.Typer(help="Show where the settings come from.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="config", rich_help_panel=None)


@group.command()
def explain(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A setting or section; else all.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each setting, its value and where that value came from."""
    from opta_lmx.cli.terminal import print_json, table
    from opta_lmx.config import explain as explain_all

    rows = explain_all(open_session(config).loaded)
    if key is not None:
        rows = [row for row in rows if row.key == key or row.key.startswith(f"{key}.")]
        if not rows:
            raise _unknown(key)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    table({"SETTING": False, "VALUE": False, "FROM": False, "MEANING": False}, list(rows))


@group.command()
def path(config: ConfigOption = None) -> None:
    """Show the state folder, the configuration file and the model store."""
    session = open_session(config)
    file = config or session.home / "config.toml"
    typer.echo(f"home    {session.home}")
    typer.echo(f"config  {file}{'' if file.exists() else ' (absent)'}")
    typer.echo(f"models  {session.settings.models.root(session.home)}")


def _unknown(key: str) -> LmxError:
    import difflib

    from opta_lmx.config.settings import fields

    near = difflib.get_close_matches(key, list(fields()), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return invalid(f"There is no setting {key}{hint}", param=key, code="unknown_setting")
