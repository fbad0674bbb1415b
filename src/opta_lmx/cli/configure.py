"""Commands about the configuration: `config explain`, `config path`."""

from typing import Annotated

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, Session, open_session
from opta_lmx.core.errors import LmxError, invalid

group = typer.Typer(help="Show where the settings come from.", no_args_is_help=True)

_WHEN = {"start": "at start", "request": "at each request", "operator": "by you"}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="config", rich_help_panel=None)


@group.command()
def explain(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A setting or section; else all.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="What a security profile asks for instead, beside what is set: loopback, lan, "
            "trusted-gateway or internet.",
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each setting, its value and where that value came from."""
    from opta_lmx.cli.terminal import print_json, table
    from opta_lmx.config import explain as explain_all

    session = open_session(config)
    if profile is not None:
        if key is not None:
            raise invalid("Ask for a setting or for a profile, not for both.", param="profile")
        _explain_profile(session, profile, as_json=as_json)
        return
    rows = explain_all(session.loaded)
    if key is not None:
        rows = [row for row in rows if row.key == key or row.key.startswith(f"{key}.")]
        if not rows:
            raise _unknown(key)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    table({"SETTING": False, "VALUE": False, "FROM": False, "MEANING": False}, list(rows))


def _explain_profile(session: Session, name: str, *, as_json: bool) -> None:
    """Print what a profile asks for, what is set, and what is lacking."""
    import msgspec

    from opta_lmx.cli.profile_checks import profile_rules
    from opta_lmx.cli.terminal import print_json, table
    from opta_lmx.config.profiles import PROFILES

    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise invalid(f"There is no profile {name}; there are: {known}.", param="profile")
    rules = profile_rules(session, name)
    purpose = PROFILES[name].purpose
    if as_json:
        told = [msgspec.to_builtins(rule) for rule in rules]
        print_json({"profile": name, "purpose": purpose, "rules": told})
        return
    force = "in force" if session.settings.security.profile == name else "not in force"
    typer.echo(f"{name} ({force}): {purpose}\n")
    columns = {"RULE": False, "ASKS FOR": False, "SET": False, "ENFORCED": False, "": False}
    rows: list[tuple[str, ...]] = [
        (one.name, one.asks, one.found, _WHEN[one.enforced], "missing" if one.missing else "")
        for one in rules
    ]
    table(columns, rows)
    lacking = [rule.missing for rule in rules if rule.missing is not None]
    if lacking:
        typer.echo("\nMissing:\n" + "\n".join(f"- {sentence}" for sentence in lacking))


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
