"""The settings as commands see them, and the options many commands share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import SecretStr

    from opta_lmx.config import Loaded, Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration file to read.")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="Address of the server; else the configured one.")
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="OPTA_LMX_API_KEY",
        help="Key for the server; else a configured one with the scopes that are needed.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Session:
    """The state folder and the settings in force."""

    home: Path
    loaded: "Loaded"

    @property
    def settings(self) -> "Settings":
        """The settings themselves."""
        return self.loaded.settings

    @property
    def server_url(self) -> str:
        """Where this configuration's server is reached from this machine."""
        server = self.settings.server
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
        scheme = "https" if self.settings.tls.enabled else "http"
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}:{server.port}"


def open_session(config: Path | None = None, **flags: object) -> Session:
    """Read the settings from every source.

    Args:
        config: a configuration file that must exist, or None for the one in the home.
        flags: values given on the command line, `server__port=1`; None where not given.
    """
    from opta_lmx.config import lmx_home, load_settings

    home = lmx_home(os.environ)
    values = {name.replace("__", "."): value for name, value in flags.items()}
    return Session(home, load_settings(home=home, file=config, env=os.environ, flags=values))


def key_for(session: Session, url: str | None) -> str | None:
    """The configured key for operators, which is only ever sent to the configured address."""
    return _shown_to(session, url, session.settings.operators_key())


def persons_key_for(session: Session, url: str | None) -> str | None:
    """As `key_for`, but for asking models."""
    return _shown_to(session, url, session.settings.persons_key())


def clients_key_for(session: Session, url: str | None) -> str | None:
    """As `key_for`, but for models, and one that opens no operators' routes if there is one."""
    return _shown_to(session, url, session.settings.clients_key())


def _shown_to(session: Session, url: str | None, key: "SecretStr | None") -> str | None:
    if key is None or (url is not None and url.rstrip("/") != session.server_url):
        return None
    return key.get_secret_value()
