"""The usage ledger: who used how much of which model on which day (UTC)."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.store.database import Database
from opta_lmx.tenancy import usage_rows
from opta_lmx.tenancy.usage_rows import GROUPS, Cell, Counts, Group, Query

FLUSH_S = 0.5
MAX_ROWS = 20_000
"""Rows of one report; more are refused rather than cut off."""
MAX_CELLS = 50_000
"""Cells that wait in memory while the database cannot be written to; what is more is dropped."""
_MAX_NAME = 512


class Ledger:
    """Counts in memory, written within a second, all in one transaction.

    Args:
        database: with the tables of `usage_rows.SCHEMA`.
        clock: time.
        telemetry: told when use cannot be written down.
        days: how long it is kept.
    """

    def __init__(
        self, database: Database, clock: Clock, telemetry: Telemetry, days: int = 400
    ) -> None:
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        self._days = days
        self._cells: dict[Cell, Counts] = {}
        self._flushing: asyncio.Future[None] | None = None
        self._writing = asyncio.Lock()
        self._swept = ""

    def record(self, owner: Principal, model: str, counts: Counts) -> None:
        """Count one call that has ended."""
        cell = Cell(self._today().isoformat(), owner.tenant, owner.key, model)
        self._add(cell, counts)
        if self._flushing is None:
            self._flushing = asyncio.ensure_future(self._flush_soon())

    def _add(self, cell: Cell, counts: Counts) -> None:
        known = self._cells.get(cell)
        if known is not None:
            known.add(counts)
        elif len(self._cells) < MAX_CELLS:
            self._cells[cell] = counts
        else:
            self._telemetry.log("error", "use dropped: too much waits to be written")

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).date()

    async def _flush_soon(self) -> None:
        try:
            while self._cells:
                await self._clock.sleep(FLUSH_S)
                await self.flush()
        finally:
            self._flushing = None

    async def flush(self) -> None:
        """Write what was counted; it waits where the database cannot be written to.

        Never raises LmxError.
        """
        async with self._writing:
            cells, self._cells = self._cells, {}
            if not cells:
                return
            last = (self._today() - timedelta(days=self._days)).isoformat()
            sweeps = last != self._swept
            try:
                await self._database.write(
                    lambda link: _write(link, cells, last if sweeps else None)
                )
            except LmxError as error:
                for cell, counts in cells.items():
                    self._add(cell, counts)
                self._telemetry.log("warning", "use not written down yet", code=error.code)
            else:
                self._swept = last

    async def report(self, query: Query) -> list[dict[str, Any]]:
        """Use as asked for, what was counted a moment ago included.

        Raises:
            LmxError: INVALID_REQUEST `too_many_rows`; UNAVAILABLE.
        """
        await self.flush()
        return await report(self._database, query)

    async def close(self) -> None:
        """Write what was counted."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.wait({self._flushing})
        await self.flush()


def _write(link: Any, cells: dict[Cell, Counts], before: str | None) -> None:
    usage_rows.add(link, cells.items())
    if before is not None:
        usage_rows.forget(link, before)


async def report(database: Database, query: Query) -> list[dict[str, Any]]:
    """Use as it is written down. Raises INVALID_REQUEST `too_many_rows`, UNAVAILABLE."""
    rows: Sequence[dict[str, Any]] = await database.read(
        lambda link: usage_rows.found(link, query, MAX_ROWS)
    )
    if len(rows) > MAX_ROWS:
        raise invalid(
            f"There are more than {MAX_ROWS} rows: ask for fewer days, or group by less.",
            code="too_many_rows",
        )
    return [*rows]


def query_of(words: dict[str, str]) -> Query:
    """Read a query's words: `from`, `to`, `tenant`, `key`, `model`, `group_by`.

    Raises:
        LmxError: INVALID_REQUEST naming the word.
    """
    since, until = _day(words, "from"), _day(words, "to")
    if since is not None and until is not None and until < since:
        raise invalid("'to' must not be before 'from'.", param="to")
    names: dict[str, str] = {}
    for name in ("tenant", "key", "model"):
        if name in words:
            if not 0 < len(words[name]) <= _MAX_NAME:
                raise invalid(f"'{name}' takes 1 to {_MAX_NAME} characters.", param=name)
            names[name] = words[name]
    return Query(since, until, **names, group_by=_groups(words.get("group_by")))


def _day(words: dict[str, str], name: str) -> date | None:
    if name not in words:
        return None
    try:
        found = date.fromisoformat(words[name])
    except ValueError:
        found = None
    if found is None or found.isoformat() != words[name]:
        raise invalid(f"'{name}' must be a date like 2031-05-31.", param=name)
    return found


def _groups(text: str | None) -> tuple[Group, ...]:
    if text is None:
        return GROUPS
    asked = [word.strip() for word in text.split(",")]
    known: tuple[Group, ...] = tuple(group for group in GROUPS if group in asked)
    if len(known) != len(asked):
        raise invalid(
            f"'group_by' takes some of {', '.join(GROUPS)}, each once, with commas between.",
            param="group_by",
        )
    return known
