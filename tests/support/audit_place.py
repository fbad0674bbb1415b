"""A home with an audit log, and its file as another program has it open."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.security.redaction import Redactor
from opta_lmx.store.database import Database
from opta_lmx.tenancy.audit import AuditLog
from opta_lmx.tenancy.audit_rows import SCHEMA, Entry
from tests.support.clocks import HandClock, SteppedClock

SECRET = "sk-of-the-configuration"


class Place:
    """A home's audit log, and its file as another tool has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path / "lmx.db"
        self.clock: HandClock = SteppedClock(1_900_000_000.0)
        self.opened: list[Database] = []

    def log(self, keep_days: int | None = None) -> AuditLog:
        database = Database(self.path, (SCHEMA,), self.clock, NullTelemetry())
        assert database.failure is None
        self.opened.append(database)
        return AuditLog(database, self.clock, Redactor([SECRET]).mask, keep_days)

    def tool(self, *statements: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """Run statements as somebody with the file and another program."""
        rows: list[Any] = []
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            for statement in statements:
                rows = database.execute(statement, parameters).fetchall()
        return rows

    def close(self) -> None:
        for database in self.opened:
            database._close()


def entry(action: str = "models.load", **fields: Any) -> Entry:
    return Entry(**{"who": "operator", "tenant": "ours", "outcome": "ok", **fields}, action=action)
