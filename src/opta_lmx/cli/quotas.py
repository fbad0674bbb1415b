"""The commands `quotas set`, `quotas list`, `quotas clear`: on the home's database.

They need no server, and one that runs follows within a second or two.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, Session, open_session

if TYPE_CHECKING:
    from opta_lmx.config.sections.quotas import QuotaSettings
    from opta_lmx.core.principal import Quotas
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.quotas import QuotaBook
    from opta_lmx.tenancy.quotas_rows import Subject

_Result = TypeVar("_Result")
_Key = Annotated[str | None, typer.Option("--key", metavar="NAME", help="Name of the key.")]
_Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Tenant, for all its keys.")
]

group = typer.Typer(
    help="Say what keys and tenants may use in a minute and a day.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="quotas", rich_help_panel=None)


def _limit(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", metavar="N", min=1, help=text)


@group.command("set")
def set_quotas(
    *,
    key: _Key = None,
    tenant: _Tenant = None,
    requests_per_minute: Annotated[
        int | None, _limit("requests-per-minute", "Requests of any 60 s.")
    ] = None,
    requests_per_day: Annotated[
        int | None, _limit("requests-per-day", "Requests of any 24 h.")
    ] = None,
    prompt_tokens_per_minute: Annotated[
        int | None, _limit("prompt-tokens-per-minute", "Tokens of prompts.")
    ] = None,
    prompt_tokens_per_day: Annotated[
        int | None, _limit("prompt-tokens-per-day", "Tokens of prompts.")
    ] = None,
    output_tokens_per_minute: Annotated[
        int | None, _limit("output-tokens-per-minute", "Tokens of answers.")
    ] = None,
    output_tokens_per_day: Annotated[
        int | None, _limit("output-tokens-per-day", "Tokens of answers.")
    ] = None,
    agent_runs_per_minute: Annotated[
        int | None, _limit("agent-runs-per-minute", "Runs of agents.")
    ] = None,
    agent_runs_per_day: Annotated[
        int | None, _limit("agent-runs-per-day", "Runs of agents.")
    ] = None,
    skill_calls_per_minute: Annotated[
        int | None, _limit("skill-calls-per-minute", "Calls of skills.")
    ] = None,
    skill_calls_per_day: Annotated[
        int | None, _limit("skill-calls-per-day", "Calls of skills.")
    ] = None,
    concurrency: Annotated[
        int | None, _limit("concurrency", "Requests in flight, over all models.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Give a key or a tenant quotas, in place of all that it had."""
    from opta_lmx.cli.terminal import note
    from opta_lmx.core.principal import Quotas

    given = Quotas(
        requests_per_minute=requests_per_minute,
        requests_per_day=requests_per_day,
        prompt_tokens_per_minute=prompt_tokens_per_minute,
        prompt_tokens_per_day=prompt_tokens_per_day,
        output_tokens_per_minute=output_tokens_per_minute,
        output_tokens_per_day=output_tokens_per_day,
        agent_runs_per_minute=agent_runs_per_minute,
        agent_runs_per_day=agent_runs_per_day,
        skill_calls_per_minute=skill_calls_per_minute,
        skill_calls_per_day=skill_calls_per_day,
        concurrency=concurrency,
    )
    subject = _subject(key, tenant)
    _changing(open_session(config), ("quotas.set", subject), lambda book: book.put(subject, given))
    note(f"The {subject.whose} '{subject.name}' may use: {_words(given)}.")


@group.command("list")
def list_quotas(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the quotas made here, and those of the configuration that they leave in force."""
    from opta_lmx.cli.terminal import print_json, table

    session = open_session(config)
    facts = _facts(session)
    if as_json:
        print_json(facts)
        return
    if not facts:
        typer.echo("There are no quotas; give some with: opta-lmx quotas set --key NAME …")
        return
    headings = ("WHOSE", "NAME", "LIMITS", "SOURCE")
    rows = [
        (fact["whose"], fact["name"], _listed(fact["limits"]), fact["source"]) for fact in facts
    ]
    table(dict.fromkeys(headings, False), rows)


@group.command()
def clear(*, key: _Key = None, tenant: _Tenant = None, config: ConfigOption = None) -> None:
    """Forget the quotas made here; those of the configuration hold again."""
    from opta_lmx.cli.terminal import note
    from opta_lmx.tenancy.quotas import not_found

    subject = _subject(key, tenant)

    async def forget(book: "QuotaBook") -> None:
        if not await book.clear(subject):
            raise not_found(subject)

    _changing(open_session(config), ("quotas.clear", subject), forget)
    note(f"The stored quotas of the {subject.whose} '{subject.name}' are gone.")


def _subject(key: str | None, tenant: str | None) -> "Subject":
    from opta_lmx.core.errors import invalid
    from opta_lmx.tenancy.quotas_rows import Subject

    if (key is None) == (tenant is None):
        raise invalid("Give either --key or --tenant.")
    return Subject("key", key) if key is not None else Subject("tenant", tenant or "")


def _changing(
    session: Session,
    what: "tuple[str, Subject]",
    work: "Callable[[QuotaBook], Awaitable[_Result]]",
) -> _Result:
    """Do work that changes quotas; `what`, an action and its subject, goes into the audit log."""
    from opta_lmx.cli.audit import recorded

    action, subject = what
    target = f"{subject.whose} {subject.name}"

    async def run(book: "QuotaBook", database: "Database") -> _Result:
        return await recorded(
            database, session, (action, target), lambda: work(book), lambda _: target
        )

    return _with_book(session, run)


def _with_book(
    session: Session, work: "Callable[[QuotaBook, Database], Awaitable[_Result]]"
) -> _Result:
    """Open the home's quotas, do the work, close them. Raises LmxError."""
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.core.telemetry import NullTelemetry
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.audit_rows import SCHEMA as AUDIT_SCHEMA
    from opta_lmx.tenancy.quotas import QuotaBook
    from opta_lmx.tenancy.quotas_rows import SCHEMA

    async def run() -> _Result:
        clock, path, schemas = SystemClock(), session.home / "lmx.db", (SCHEMA, AUDIT_SCHEMA)
        database = Database(path, schemas, clock, NullTelemetry())
        try:
            if database.failure is not None:
                raise database.failure
            return await work(QuotaBook(_configured(session), database, clock), database)
        finally:
            await database.close()

    return asyncio.run(run())


def _configured(session: Session) -> "dict[Subject, Quotas]":
    from opta_lmx.tenancy.quotas_rows import Subject

    quotas = session.settings.quotas
    found = {Subject("key", one.name): _read(one) for one in quotas.keys}
    return found | {Subject("tenant", one.name): _read(one) for one in quotas.tenants}


def _read(one: "QuotaSettings") -> "Quotas":
    from opta_lmx.core.principal import Quotas

    return Quotas(**one.model_dump(exclude={"name"}))


def _facts(session: Session) -> list[dict[str, Any]]:
    from msgspec.structs import asdict

    # To look is no reason to make a database.
    if not (session.home / "lmx.db").exists():
        return [
            {"whose": one.whose, "name": one.name, "limits": asdict(quotas), "source": "config"}
            for one, quotas in _configured(session).items()
        ]

    async def holdings(book: "QuotaBook", _: "Database") -> list[dict[str, Any]]:
        return [
            {
                "whose": one.subject.whose,
                "name": one.subject.name,
                "limits": asdict(one.quotas),
                "source": one.source,
            }
            for one in book.holdings()
        ]

    return _with_book(session, holdings)


def _words(quotas: "Quotas") -> str:
    from msgspec.structs import asdict

    return _listed(asdict(quotas))


def _listed(limits: dict[str, int | None]) -> str:
    told = (f"{name.replace('_', ' ')} {most}" for name, most in limits.items() if most)
    return ", ".join(told)
