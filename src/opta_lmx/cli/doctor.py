"""`doctor`: look at everything a server needs, change nothing, exit 1 if something is broken."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, Session, open_session
from opta_lmx.core.errors import LmxError

if TYPE_CHECKING:
    from opta_lmx.cli.checks import Check

_COLOURS = {"ok": "green", "info": "blue", "warning": "yellow", "broken": "red"}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(doctor)


def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check hardware, engines, configuration, disk, port, and whether each model fits."""
    from opta_lmx.cli.terminal import print_json

    found: list[Check] = []
    for check in _examine(config):
        found.append(check)
        if not as_json:
            _show(check)
    broken = sum(check.state == "broken" for check in found)
    if as_json:
        print_json({"ok": not broken, "checks": [check._asdict() for check in found]})
    if broken:
        raise typer.Exit(1)


def _examine(config: Path | None) -> "Iterator[Check]":
    from opta_lmx.cli import checks, fitting, preset_checks, profile_checks, tls_checks
    from opta_lmx.cli.oidc_checks import provider

    yield from checks.hardware()
    yield from checks.backends()
    session, check = _configuration(config)
    yield check
    yield from checks.state_folder(session, config)
    yield from profile_checks.security(session)
    yield from tls_checks.certificates(session)
    yield from provider(session)
    yield from checks.listening(session)
    yield from fitting.models(session)
    yield from preset_checks.presets(session)
    yield from fitting.better(session)


def _configuration(config: Path | None) -> "tuple[Session, Check]":
    """The settings; where they are broken, the defaults, so that the rest is still looked at."""
    from opta_lmx.cli.checks import Check, with_step
    from opta_lmx.config import lmx_home, load_settings

    try:
        session = open_session(config)
    except LmxError as error:
        home = lmx_home(os.environ)
        # Without a file or variables the defaults apply; /dev/null reads as an empty file.
        plain = load_settings(home=home, file=Path(os.devnull), env={}, flags={})
        return Session(home, plain), Check(
            "configuration", "broken", with_step(error.message, "correct it there")
        )
    sources = sorted(set(session.loaded.origins.values()) - {"default"})
    return session, Check("configuration", "ok", ", ".join(sources) or "defaults only")


def _show(check: "Check") -> None:
    from opta_lmx.cli.terminal import printable

    mark = typer.style(f"{check.state:8}", fg=_COLOURS[check.state])
    typer.echo(f"{mark} {' '.join(printable(f'{check.subject}: {check.detail}').split())}")
