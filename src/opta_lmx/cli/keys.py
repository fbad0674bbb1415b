"""The commands `keys create`, `keys list`, `keys rotate`, `keys revoke`: on the home's database.

They need no server, and one that runs follows within a second or two.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, Session, open_session

if TYPE_CHECKING:
    from opta_lmx.core.principal import Principal
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.key_book import Issued, KeyBook
    from opta_lmx.tenancy.key_rows import KeyRow

_Result = TypeVar("_Result")
_Which = Annotated[str, typer.Argument(metavar="NAME|ID", help="Name or id of the key.")]

group = typer.Typer(help="Make, list, replace and end keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="keys", rich_help_panel=None)


@group.command()
def create(
    name: Annotated[str, typer.Option("--name", help="What the key is called.")],
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose it is.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="inference, agents, skills, admin or metrics; may be repeated. Else inference.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="PATTERN",
            help="Model it may use, with * for any characters; may be repeated. Else all.",
        ),
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", help="30d, 12h, a date (its first moment, UTC) or never.")
    ] = "never",
    note: Annotated[str, typer.Option("--note", help="A remark for operators.")] = "",
    lane: Annotated[
        str, typer.Option("--lane", help="Best lane: interactive, agent or background.")
    ] = "interactive",
    weight: Annotated[
        float, typer.Option("--weight", help="Share against other keys of the lane.")
    ] = 1.0,
    max_running: Annotated[
        int | None, typer.Option("--max-running", help="Requests at once, on one model.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", help="Longest prompt.")
    ] = None,
    prompt_tokens_per_minute: Annotated[
        int | None, typer.Option("--prompt-tokens-per-minute", help="Prompts of any 60 s.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Longest answer.")] = None,
    kv_bytes: Annotated[
        int | None, typer.Option("--kv-bytes", help="Caches of its running requests, on one model.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a key; its text is printed this once, alone on standard output."""
    from opta_lmx.core.principal import Budgets, Principal
    from opta_lmx.tenancy.grants import lane_of, scopes_of

    owner = Principal(
        tenant=tenant,
        key=name,
        lane=lane_of(lane),
        weight=weight,
        max_running=max_running,
        budgets=Budgets(prompt_tokens, prompt_tokens_per_minute, max_tokens, kv_bytes),
        scopes=scopes_of(scope or ["inference"]),
        models=tuple(model) if model else None,
    )
    issued = _changing(
        open_session(config),
        ("keys.create", name),
        lambda book: book.create(owner, expires=expires, note=note, maker=None),
        lambda made: made.row,
    )
    _say(issued)


@group.command("list")
def list_keys(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that were revoked or replaced.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys made here, and those of the configuration."""
    from opta_lmx.cli.terminal import print_json, table

    session = open_session(config)
    # To look is no reason to make a database.
    made = (session.home / "lmx.db").exists()
    rows = _with_book(session, lambda book, _: book.rows(everything=everything)) if made else []
    facts = [*_configured(session), *_stored(rows)]
    if as_json:
        print_json(facts)
        return
    if not facts:
        typer.echo("There is no key; make one with: opta-lmx keys create --name NAME")
        return
    headings = ("ID", "NAME", "TENANT", "SCOPES", "STATE", "EXPIRES", "SOURCE")
    table(dict.fromkeys(headings, False), [_cells(fact) for fact in facts])


@group.command()
def rotate(
    which: _Which,
    *,
    grace: Annotated[
        str, typer.Option("--grace", help="How long the old one goes on working: 10m, 24h.")
    ] = "0",
    expires: Annotated[
        str | None, typer.Option("--expires", help="As for create; else as the old one.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a new text for a key, under a new id; it is printed this once."""
    session = open_session(config)
    issued = _changing(
        session,
        ("keys.rotate", which),
        lambda book: book.rotate(which, grace=grace, expires=expires, maker=None, named=True),
        lambda made: made.row,
    )
    _say(issued)


@group.command()
def revoke(which: _Which, *, config: ConfigOption = None) -> None:
    """End a key now, with what is left of those it replaced."""
    from opta_lmx.cli.terminal import note

    row = _changing(
        open_session(config),
        ("keys.revoke", which),
        lambda book: book.revoke(which, named=True),
        lambda ended: ended,
    )
    note(f"The key '{row.owner.key}' ({row.id}) is revoked.")


def _changing(
    session: Session,
    what: tuple[str, str],
    work: "Callable[[KeyBook], Awaitable[_Result]]",
    told: "Callable[[_Result], KeyRow]",
) -> _Result:
    """Do work that changes keys; `what`, an action and its target, goes into the audit log."""
    from opta_lmx.cli.audit import recorded

    def done(result: _Result) -> str:
        return told(result).in_words()

    async def run(book: "KeyBook", database: "Database") -> _Result:
        return await recorded(database, session, what, lambda: work(book), done)

    return _with_book(session, run)


def _with_book(
    session: Session, work: "Callable[[KeyBook, Database], Awaitable[_Result]]"
) -> _Result:
    """Open the home's keys, do the work, close them. Raises LmxError."""
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.core.telemetry import NullTelemetry
    from opta_lmx.security.redaction import Redactor
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.audit_rows import SCHEMA as AUDIT_SCHEMA
    from opta_lmx.tenancy.key_book import KeyBook
    from opta_lmx.tenancy.key_rows import SCHEMA

    async def run() -> _Result:
        clock, path, schemas = SystemClock(), session.home / "lmx.db", (SCHEMA, AUDIT_SCHEMA)
        database = Database(path, schemas, clock, NullTelemetry())
        try:
            if database.failure is not None:
                raise database.failure
            taken = [owner.key for owner in _owners(session)]
            mask = Redactor(session.settings.secrets()).mask_keys
            return await work(KeyBook(database, clock, taken, mask), database)
        finally:
            await database.close()

    return asyncio.run(run())


def _say(issued: "Issued") -> None:
    from opta_lmx.cli.terminal import note

    row = issued.row
    (fact,) = _stored([row])
    note(
        f"The key '{row.owner.key}' ({row.id}) of {row.owner.tenant} may be used for "
        f"{' '.join(fact['scopes'])}; expires: {fact['expires'] or 'never'}. "
        "It is not kept and cannot be shown again:"
    )
    typer.echo(issued.secret)
    if issued.first:
        note("From now on the server asks every caller for a key.")


def _owners(session: Session) -> "list[Principal]":
    """The owners of the configuration's keys, by name and tenant."""
    from opta_lmx.config.settings import plain_name
    from opta_lmx.core.principal import Principal
    from opta_lmx.tenancy.grants import scopes_of

    settings = session.settings
    plain = [Principal(key=plain_name(n)) for n in range(len(settings.server.api_keys))]
    named = [
        Principal(tenant=one.tenant, key=one.name, scopes=scopes_of(one.scopes))
        for one in settings.access.keys
    ]
    return [*plain, *named]


def _configured(session: Session) -> list[dict[str, Any]]:
    return [
        {
            "id": None,
            "name": owner.key,
            "tenant": owner.tenant,
            "scopes": sorted(owner.scopes),
            "state": "active",
            "expires": None,
            "source": "config",
        }
        for owner in _owners(session)
    ]


def _stored(rows: "list[KeyRow]") -> list[dict[str, Any]]:
    from opta_lmx.core.clock import SystemClock

    now_ms = SystemClock().now_ms()
    return [
        {
            "id": row.id,
            "name": row.owner.key,
            "tenant": row.owner.tenant,
            "scopes": sorted(row.owner.scopes),
            "state": row.state(now_ms),
            "expires": _moment(row.ends_ms),
            "source": "stored",
        }
        for row in rows
    ]


def _cells(fact: dict[str, Any]) -> tuple[str, ...]:
    scopes = " ".join(fact["scopes"])
    return (
        fact["id"] or "-",
        fact["name"],
        fact["tenant"],
        scopes,
        fact["state"],
        fact["expires"] or "never",
        fact["source"],
    )


def _moment(at_ms: int | None) -> str | None:
    """A moment as people read it, in UTC."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
