"""The commands `tls init`, `tls issue`, `tls renew`, `tls list`: an authority of one's own.

A server that runs takes over what they change within a second or two.
"""

import re
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opta_lmx.cli.session import JsonOption, Session, open_session
from opta_lmx.core.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from opta_lmx.security.tls.folder import Made, TlsFolder

_DAY_MS = 86_400_000

group = typer.Typer(
    help="Make, renew and list certificates of an authority of your own.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="tls", rich_help_panel=None)


@group.command()
def init(
    *,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="Name or address in callers' URLs; may be repeated. Else localhost, 127.0.0.1, "
            "::1 and this machine's name.",
        ),
    ] = None,
    days: Annotated[float, typer.Option("--days", help="How long the server's counts.")] = 90,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the authority that there is.")
    ] = False,
) -> None:
    """Make an authority and the server's certificate; print the settings that use them."""
    from opta_lmx.cli.terminal import note
    from opta_lmx.security.tls.making import hosts_of_machine

    hosts = host or hosts_of_machine(socket.gethostname())
    session = open_session()
    folder = _folder(session)
    made = _making(
        session, ("tls.init", " ".join(hosts)), lambda: folder.begin(hosts, days, force=force)
    )
    note(f"Made {folder.authority_file} and {made.certificate}, which ends {_moment(made)}.")
    note("Clients are to trust the first of the two. Settings that use them:")
    typer.echo(
        f"[tls]\ncertificate = {_toml(made.certificate)}\nkey = {_toml(made.key)}\n"
        f"client_ca = {_toml(folder.authority_file)}\n"
        'client_certificates = "optional"          # or "required"'
    )


@group.command()
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose client it is.")] = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="For a proxy that tells of its clients' instead.")
    ] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", help="The certificate also is a server's, of that name; may be repeated."
        ),
    ] = None,
    days: Annotated[float, typer.Option("--days", help="How long it counts.")] = 30,
) -> None:
    """Make a client's certificate; print the settings that know it."""
    from opta_lmx.cli.terminal import note
    from opta_lmx.security.tls.making import Wish, gateway_uri, tenant_uri

    if gateway == (tenant is not None):
        raise invalid("Give either --tenant or --gateway.", param="tenant")
    _check(name, "NAME")
    if tenant is not None:
        _check(tenant, "--tenant")
    uri = gateway_uri(name) if tenant is None else tenant_uri(tenant, name)
    session, wish = open_session(), Wish(name, tenant, uri, tuple(host or ()), days)
    made = _making(session, ("tls.issue", uri), lambda: _folder(session).issue(wish))
    note(f"Made {made.certificate} and {made.key}; it ends {_moment(made)}. Settings that know it:")
    if tenant is None:
        typer.echo(f'[tls]\ngateway = ["{uri}"]')
    else:
        typer.echo(f'[[tls.mapping]]\nuri = "{tenant_uri(tenant, "*")}"\ntenant = "{tenant}"')


@group.command()
def renew(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A client; else the server.")
    ] = None,
    *,
    days: Annotated[
        float | None, typer.Option("--days", help="How long it counts; else as the old one.")
    ] = None,
) -> None:
    """Make a certificate anew, with a new key, that says the same."""
    from opta_lmx.cli.terminal import note

    if name is not None:
        _check(name, "NAME")
    session = open_session()
    what = "tls.renew", name or "server"
    made = _making(session, what, lambda: _folder(session).renew(name, days))
    note(f"Made {made.certificate} and {made.key} anew; it ends {_moment(made)}.")


@group.command(name="list")
def show(*, as_json: JsonOption = False) -> None:
    """Show the certificates made here, and when they end."""
    from opta_lmx.cli.terminal import print_json, table
    from opta_lmx.core.clock import SystemClock

    now_ms = SystemClock().now_ms()
    facts = [_facts(made, now_ms) for made in _folder(open_session()).all()]
    if as_json:
        print_json({"certificates": facts})
        return
    columns = {"name": False, "known as": False, "ends": False, "days left": True}
    rows = [
        (one["name"], " ".join(one["known_as"]), one["ends"], f"{one['days_left']:.1f}")
        for one in facts
    ]
    table(columns, rows)


def _facts(made: "Made", now_ms: int) -> dict[str, Any]:
    wish = made.wish
    return {
        "name": made.certificate.stem,
        "known_as": [*([wish.uri] if wish.uri else []), *wish.hosts],
        "ends": _moment(made),
        "days_left": round((made.ends_ms - now_ms) / _DAY_MS, 1),
        "certificate": str(made.certificate),
        "key": str(made.key),
    }


def _folder(session: Session) -> "TlsFolder":
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.security.tls.folder import FOLDER, TlsFolder

    return TlsFolder(session.home / FOLDER, SystemClock())


def _making(session: Session, what: tuple[str, str], work: "Callable[[], Made]") -> "Made":
    """Make a certificate; `what`, an action and its target, goes into the audit log."""
    from opta_lmx.cli.audit import written

    return written(session, what, work, lambda made: f"{what[1]}, ends {_moment(made)}")


def _check(text: str, param: str) -> None:
    from opta_lmx.tenancy.grants import LABEL

    if re.fullmatch(LABEL.strip("^$"), text) is None:
        raise invalid(
            f"{param} takes up to 64 letters, digits, '.', '_' and '-', and begins with one of "
            "the first two.",
            param=param,
        )


def _moment(made: "Made") -> str:
    return datetime.fromtimestamp(made.ends_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _toml(path: object) -> str:
    """A path as a string of TOML."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
