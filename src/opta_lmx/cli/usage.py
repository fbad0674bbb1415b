"""The command `usage`: what the ledger in the home's database says."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opta_lmx.cli.session import ConfigOption, Session, open_session

if TYPE_CHECKING:
    from opta_lmx.tenancy.usage_rows import Query


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(usage)


def usage(
    *,
    since: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="First day, UTC: 2031-05-31.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last day.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="One tenant alone.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="One key alone, by its name.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="One model alone.")] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by", metavar="LIST", help="Some of day,tenant,key,model. Else all of them."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    config: ConfigOption = None,
) -> None:
    """Tell who used how much of which model, day by day."""
    from opta_lmx.core.errors import invalid
    from opta_lmx.tenancy.usage import query_of

    if form not in ("table", "json", "csv"):
        raise invalid("'--format' must be table, json or csv.", param="format")
    asked = {
        "from": since,
        "to": until,
        "tenant": tenant,
        "key": key,
        "model": model,
        "group_by": group_by,
    }
    query = query_of({name: word for name, word in asked.items() if word is not None})
    session = open_session(config)
    # To look is no reason to make a database.
    made = (session.home / "lmx.db").exists()
    _print(form, query, asyncio.run(_rows(session, query)) if made else [])


async def _rows(session: Session, query: "Query") -> list[dict[str, Any]]:
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.core.telemetry import NullTelemetry
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.usage import report
    from opta_lmx.tenancy.usage_rows import SCHEMA

    database = Database(session.home / "lmx.db", (SCHEMA,), SystemClock(), NullTelemetry())
    try:
        if database.failure is not None:
            raise database.failure
        return await report(database, query)
    finally:
        await database.close()


def _print(form: str, query: "Query", rows: list[dict[str, Any]]) -> None:
    from opta_lmx.cli.terminal import print_json, table
    from opta_lmx.tenancy.usage_csv import written
    from opta_lmx.tenancy.usage_rows import COUNTS

    if form == "json":
        print_json(rows)
    elif form == "csv":
        typer.echo(written([*query.group_by, *COUNTS], rows), nl=False)
    elif not rows:
        typer.echo("Nothing was used.")
    else:
        columns = dict.fromkeys(query.group_by, False) | dict.fromkeys(COUNTS, True)
        cells = [tuple(str(row[name]) for name in columns) for row in rows]
        headings = {name.replace("_", " ").upper(): right for name, right in columns.items()}
        table(headings, cells)
