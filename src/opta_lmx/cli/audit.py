"""The commands `audit` and `audit verify`: what operators did, read from the home's database."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, Session, open_session

if TYPE_CHECKING:
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.audit import AuditLog
    from opta_lmx.tenancy.audit_rows import AuditRow, Entry, Wanted

_Result = TypeVar("_Result")
_PAGE = 1000
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")

group = typer.Typer(
    help="Show who did what, and check that nobody changed it.", invoke_without_command=True
)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="audit", rich_help_panel=None)


@group.callback()
def show(
    ctx: typer.Context,
    *,
    since: Annotated[
        str | None, typer.Option("--since", help="24h, 30d, or a date (its first moment, UTC).")
    ] = None,
    who: Annotated[str | None, typer.Option("--who", help="Name of a key, or local.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="models.load; a * at the end for more: keys.*")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show what operators did here, the oldest first."""
    if ctx.invoked_subcommand is not None:
        return
    from opta_lmx.tenancy.audit_rows import Wanted

    session = open_session(config)
    since_ms = None if since is None else _moment_before(since)
    rows = _read(session, Wanted(since_ms=since_ms, who=who, action=action))
    if as_csv:
        _print_csv(rows)
    elif as_json:
        from opta_lmx.cli.terminal import print_json

        print_json([_fact(row) for row in rows])
    else:
        _print_table(rows)


@group.command()
def verify(
    *,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", metavar="SEQ:HASH", help="What an earlier look has shown, kept elsewhere."
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Compute the chain of all rows anew; exit code 1 if any was changed or is missing."""
    from opta_lmx.cli.terminal import complain, note

    expected = None if expect is None else _expected(expect)
    session = open_session(config)
    if not _is_kept(session):
        note("There is no audit log here yet.")
        raise typer.Exit(0 if expected is None else 1)
    verdict = _with_log(session, lambda log: log.verify(expected))
    sound = f"{verdict.rows} rows, {verdict.first} to {verdict.last}"
    if verdict.problem is not None:
        complain(f"The audit log is not as it was written: {verdict.problem}. Sound: {sound}.")
        raise typer.Exit(1)
    note(f"The audit log is whole: {sound}. To check later that these stay, keep elsewhere:")
    typer.echo(f"{verdict.last}:{verdict.hash}")


async def recorded(
    database: "Database",
    session: Session,
    what: tuple[str, str],
    work: Callable[[], Awaitable[_Result]],
    told: Callable[[_Result], str],
) -> _Result:
    """Do what a command of this machine does, written down before and after.

    Args:
        database: with the tables of the audit log.
        session: whose secrets are masked.
        what: what the log calls it, and what it is done to as far as is known before.
        work: does it.
        told: what it was done to, known afterwards.

    Raises:
        LmxError: UNAVAILABLE `audit_unavailable`: it is not done; and what `work` raises.
    """
    from opta_lmx.core.errors import LmxError
    from opta_lmx.tenancy.audit_rows import Entry

    action, target = what
    log, address = _log(database, session), f"uid {os.getuid()}"
    entry = Entry(who="local", address=address, action=action, target=target, outcome="begun")
    began = await _begun(log, entry, session)
    try:
        result = await work()
    except LmxError as error:
        await _ended(log, entry, outcome="failed", code=error.code, began=began)
        raise
    await _ended(log, entry, outcome="ok", target=told(result), began=began)
    return result


def written(
    session: Session,
    what: tuple[str, str],
    work: Callable[[], _Result],
    told: Callable[[_Result], str],
) -> _Result:
    """As `recorded`, for work that needs no database itself."""
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.core.telemetry import NullTelemetry
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.audit_rows import SCHEMA

    async def done() -> _Result:
        return work()

    async def run() -> _Result:
        database = Database(session.home / "lmx.db", (SCHEMA,), SystemClock(), NullTelemetry())
        try:
            return await recorded(database, session, what, done, told)
        finally:
            await database.close()

    return asyncio.run(run())


async def _begun(log: "AuditLog", entry: "Entry", session: Session) -> int | None:
    """The number of the row that something begins. What only takes away goes on without one."""
    from opta_lmx.core.errors import LmxError

    try:
        return await log.append(entry)
    except LmxError:
        if session.settings.security.profile != "loopback" and entry.action != "keys.revoke":
            raise
        _missed()
        return None


async def _ended(log: "AuditLog", entry: "Entry", **changes: Any) -> None:
    """Write down what came of it. It is done: a failure here must not hide its result."""
    import msgspec

    from opta_lmx.core.errors import LmxError

    try:
        await log.append(msgspec.structs.replace(entry, **changes))
    except LmxError:
        _missed()


def _missed() -> None:
    from opta_lmx.cli.terminal import note

    note("This could not be written into the audit log.")


def _read(session: Session, wanted: "Wanted") -> "list[AuditRow]":
    """All rows that are wanted, page by page."""
    import msgspec

    # To look is no reason to make a database.
    if not _is_kept(session):
        return []

    async def pages(log: "AuditLog") -> "list[AuditRow]":
        rows: list[AuditRow] = []
        after = 0
        while True:
            asked = msgspec.structs.replace(wanted, after=after, limit=_PAGE)
            found = await log.page(asked)
            rows += found
            if len(found) < _PAGE:
                return rows
            after = found[-1].seq

    return _with_log(session, pages)


def _is_kept(session: Session) -> bool:
    return (session.home / "lmx.db").exists()


def _with_log(session: Session, work: "Callable[[AuditLog], Awaitable[_Result]]") -> _Result:
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.core.telemetry import NullTelemetry
    from opta_lmx.store.database import Database
    from opta_lmx.tenancy.audit_rows import SCHEMA

    async def run() -> _Result:
        database = Database(session.home / "lmx.db", (SCHEMA,), SystemClock(), NullTelemetry())
        try:
            if database.failure is not None:
                raise database.failure
            return await work(_log(database, session))
        finally:
            await database.close()

    return asyncio.run(run())


def _log(database: "Database", session: Session) -> "AuditLog":
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.security.redaction import Redactor
    from opta_lmx.tenancy.audit import AuditLog

    return AuditLog(database, SystemClock(), Redactor(session.settings.secrets()).mask)


def _moment_before(text: str) -> int:
    """A moment in the past as people write it, in UTC milliseconds. Raises LmxError."""
    from opta_lmx.core.clock import SystemClock
    from opta_lmx.core.errors import invalid
    from opta_lmx.tenancy.durations import span_s

    if text[-1:].isalpha() and text[:-1].isdecimal():
        return SystemClock().now_ms() - span_s(text, "since") * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid("'since' must be a span like 24h or a date.", param="since") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _expected(text: str) -> tuple[int, str]:
    from opta_lmx.core.errors import invalid

    seq, _, row_hash = text.strip().partition(":")
    if not (seq.isdecimal() and len(seq) < 19 and len(row_hash) == 64):
        raise invalid("'expect' must be as `audit verify` prints it.", param="expect")
    return int(seq), row_hash.lower()


def _fact(row: "AuditRow") -> dict[str, Any]:
    import msgspec

    return {"time": _moment(row.at_ms), **msgspec.structs.asdict(row)}


def _moment(at_ms: int) -> str:
    """A moment as people read it, in UTC with milliseconds."""
    seconds = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{at_ms % 1000:03d}Z"


def _print_table(rows: "list[AuditRow]") -> None:
    from opta_lmx.cli.terminal import table

    if not rows:
        typer.echo("Nothing of the kind was written down.")
        return
    headings = ("SEQ", "TIME", "WHO", "FROM", "ACTION", "TARGET", "OUTCOME")
    table(dict.fromkeys(headings, False), [_cells(row) for row in rows])


def _cells(row: "AuditRow") -> tuple[str, ...]:
    who = f"{row.tenant}/{row.who}" if row.tenant else row.who
    outcome: list[str] = [row.outcome, "" if row.status is None else str(row.status), row.code]
    told = " ".join(part for part in outcome if part)
    return str(row.seq), _moment(row.at_ms), who, row.address, row.action, row.target, told


def _print_csv(rows: "list[AuditRow]") -> None:
    import csv
    import io

    from opta_lmx.tenancy.audit_rows import AuditRow

    names = ["time", *AuditRow.__struct_fields__]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        fact = _fact(row)
        writer.writerow([_cell(fact[name]) for name in names])
    typer.echo(text.getvalue(), nl=False)


def _cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: strangers choose some of these texts."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
