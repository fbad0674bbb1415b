"""A home with a database of keys, a clock that tests move, and what both are seen through."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.principal import Principal, Scope
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database
from opta_lmx.tenancy.key_book import KeyBook
from opta_lmx.tenancy.key_rows import SCHEMA
from opta_lmx.tenancy.keyring import Keyring
from tests.support.clocks import HandClock


class Home:
    """One folder, as several processes may have it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = HandClock(1_900_000_000.0)
        self.opened: list[Database] = []

    def database(self) -> Database:
        found = Database(self.path / "lmx.db", (SCHEMA,), self.clock, NullTelemetry())
        self.opened.append(found)
        return found

    def book(self, database: Database | None = None, *taken: str) -> KeyBook:
        return KeyBook(database or self.database(), self.clock, taken)

    def ring(
        self,
        database: Database | None = None,
        fixed: Sequence[tuple[str, Principal]] = (),
        *,
        required: bool = False,
    ) -> Keyring:
        return Keyring(fixed, database or self.database(), self.clock, required=required)


def bot(name: str = "bot", **changes: Any) -> Principal:
    """The owner of an ordinary key."""
    return Principal(**{"key": name, "scopes": frozenset({Scope.INFERENCE}), **changes})


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path)
    yield found
    for database in found.opened:
        database._close()
