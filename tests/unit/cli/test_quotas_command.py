"""`quotas set`, `list`, `clear` and `usage`, as a shell sees them."""

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.clock import SystemClock
from opta_lmx.core.principal import Principal, Quotas
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database
from opta_lmx.tenancy.quotas import QuotaBook
from opta_lmx.tenancy.quotas_rows import SCHEMA, Subject
from opta_lmx.tenancy.usage import Ledger
from opta_lmx.tenancy.usage_rows import SCHEMA as USAGE_SCHEMA
from opta_lmx.tenancy.usage_rows import Counts
from tests.unit.cli.conftest import Command


def stored(home: Path) -> dict[Subject, Quotas]:
    """What a server that starts now holds callers to."""

    async def look() -> dict[Subject, Quotas]:
        clock = SystemClock()
        database = Database(home / "lmx.db", (SCHEMA,), clock, NullTelemetry())
        found = {one.subject: one.quotas for one in QuotaBook({}, database, clock).holdings()}
        await database.close()
        return found

    return asyncio.run(look())


def listed(command: Command) -> list[dict[str, Any]]:
    return json.loads(command("quotas", "list", "--json").stdout)


def test_every_option_reaches_the_quotas(command: Command, home: Path) -> None:
    names = Quotas.__struct_fields__
    options = [
        part
        for place, name in enumerate(names, 1)
        for part in (f"--{name.replace('_', '-')}", str(place))
    ]
    made = command("quotas", "set", "--tenant", "fleet", *options)
    assert made.exit_code == 0, made.stderr
    whole = Quotas(**{name: place for place, name in enumerate(names, 1)})
    assert stored(home) == {Subject("tenant", "fleet"): whole}


def test_quotas_are_replaced_listed_and_cleared(command: Command, home: Path) -> None:
    assert command("quotas", "set", "--key", "bot", "--requests-per-day", "5").exit_code == 0
    assert command("quotas", "set", "--key", "bot", "--concurrency", "2").exit_code == 0
    assert stored(home) == {Subject("key", "bot"): Quotas(concurrency=2)}
    (fact,) = listed(command)
    assert (fact["whose"], fact["name"], fact["source"]) == ("key", "bot", "stored")
    assert fact["limits"]["concurrency"] == 2
    assert "concurrency 2" in command("quotas", "list").stdout
    assert command("quotas", "clear", "--key", "bot").exit_code == 0
    assert listed(command) == []
    again = command("quotas", "clear", "--key", "bot")
    assert again.exit_code == 1
    assert "quotas_not_found" in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--requests-per-day", "5"),
        ("--key", "a", "--tenant", "b", "--requests-per-day", "5"),
        ("--key", "a"),
        ("--key", "a/b", "--requests-per-day", "5"),
    ],
)
def test_what_makes_no_sense_is_refused(command: Command, home: Path, words: tuple[str]) -> None:
    assert command("quotas", "set", *words).exit_code == 1
    assert not (home / "lmx.db").exists() or stored(home) == {}


def test_those_of_the_configuration_are_listed(command: Command, home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text('[quotas]\nkeys = [{name = "bot", requests_per_day = 7}]\n')
    (fact,) = listed(command)
    assert (fact["source"], fact["limits"]["requests_per_day"]) == ("config", 7)
    assert not (home / "lmx.db").exists()
    command("quotas", "set", "--key", "bot", "--requests-per-day", "9")
    (fact,) = listed(command)
    assert (fact["source"], fact["limits"]["requests_per_day"]) == ("stored", 9)


def use(home: Path) -> None:
    """Somebody used two models."""

    async def work() -> None:
        clock = SystemClock()
        database = Database(home / "lmx.db", (USAGE_SCHEMA,), clock, NullTelemetry())
        ledger = Ledger(database, clock, NullTelemetry())
        owner = Principal(tenant="fleet", key="bot")
        ledger.record(owner, "m", Counts(2, 1, 10, 3, 5, 1))
        ledger.record(owner, "=n", Counts(1, 0, 1, 0, 1, 0))
        await ledger.close()
        await database.close()

    asyncio.run(work())


def test_use_is_told(command: Command, home: Path) -> None:
    assert "Nothing was used" in command("usage").stdout
    assert not (home / "lmx.db").exists()
    home.mkdir(exist_ok=True)
    use(home)
    rows = json.loads(command("usage", "--format", "json", "--model", "m").stdout)
    assert [(row["key"], row["requests"], row["errors"]) for row in rows] == [("bot", 2, 1)]
    text = command("usage", "--format", "csv", "--group-by", "model").stdout
    models = [row["model"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert models == ["'=n", "m"]
    table = command("usage", "--group-by", "tenant").stdout
    assert table.split("\n")[1].split() == ["fleet", "3", "1", "11", "3", "6", "1"]
    for wrong in (("--format", "xml"), ("--from", "x"), ("--group-by", "hour")):
        assert command("usage", *wrong).exit_code == 1
