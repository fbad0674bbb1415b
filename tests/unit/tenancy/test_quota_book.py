"""Which quotas hold: those of the configuration, stored ones in their place, in every process."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal, Quotas
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database
from opta_lmx.tenancy.quotas import Ceiling, QuotaBook
from opta_lmx.tenancy.quotas_rows import SCHEMA, Subject
from opta_lmx.tenancy.windows import Limit
from tests.support.clocks import HandClock

KEY, TENANT = Subject("key", "bot"), Subject("tenant", "fleet")
OWNER = Principal(tenant="fleet", key="bot")
Open = Callable[..., QuotaBook]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    databases: list[Database] = []

    def made(configured: dict[Subject, Quotas] | None = None) -> QuotaBook:
        clock = HandClock(1_900_000_000.0)
        databases.append(Database(tmp_path / "lmx.db", (SCHEMA,), clock, NullTelemetry()))
        return QuotaBook(configured or {}, databases[-1], clock)

    yield made
    for one in databases:
        one._close()


def test_nobody_is_bounded_where_nothing_is_said(opened: Open) -> None:
    assert opened().of(OWNER) is None
    assert opened({Subject("key", "other"): Quotas(requests_per_day=1)}).of(OWNER) is None


def test_key_and_tenant_are_bounded_together(opened: Open) -> None:
    book = opened({KEY: Quotas(requests_per_minute=2), TENANT: Quotas(1, 2, 3, 4, concurrency=5)})
    bounds = book.of(OWNER)
    assert bounds is not None
    assert bounds.of("requests") == (
        Limit("key", "bot", "requests", "minute", 2),
        Limit("tenant", "fleet", "requests", "minute", 1),
        Limit("tenant", "fleet", "requests", "day", 2),
    )
    assert [one.most for one in bounds.of("prompt_tokens")] == [3, 4]
    assert bounds.ceilings == (Ceiling("tenant", "fleet", 5),)
    assert book.of(Principal(tenant="other", key="other")) is None


def test_what_is_stored_takes_the_place_of_all_that_is_configured(opened: Open) -> None:
    async def work() -> None:
        first = opened({KEY: Quotas(requests_per_minute=2, concurrency=9)})
        second = opened({KEY: Quotas(requests_per_minute=2, concurrency=9)})
        await first.put(KEY, Quotas(output_tokens_per_day=7))
        for book in (first, second, opened()):
            await book.refresh()
            bounds = book.of(OWNER)
            assert bounds is not None
            assert bounds.limits == (Limit("key", "bot", "output_tokens", "day", 7),)
            assert bounds.ceilings == ()
        assert [one.source for one in second.holdings()] == ["stored"]
        assert await second.clear(KEY)
        assert not await second.clear(KEY)
        await first.refresh()
        bounds = first.of(OWNER)
        assert bounds is not None
        assert (bounds.limits[0].most, bounds.ceilings[0].most) == (2, 9)

    asyncio.run(work())


@pytest.mark.parametrize(
    ("subject", "quotas", "param"),
    [
        (KEY, {}, None),
        (KEY, {"requests_per_day": 0}, "requests_per_day"),
        (KEY, {"concurrency": -1}, "concurrency"),
        (TENANT, {"agent_runs_per_day": 2**63}, "agent_runs_per_day"),
        (Subject("key", ""), {"concurrency": 1}, "name"),
        (Subject("key", "a\nb"), {"concurrency": 1}, "name"),
        (Subject("tenant", "x" * 65), {"concurrency": 1}, "name"),
    ],
)
def test_what_nobody_can_have_is_refused(
    opened: Open, subject: Subject, quotas: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(LmxError) as refused:
        asyncio.run(opened().put(subject, Quotas(**quotas)))
    assert (refused.value.kind, refused.value.param) == (ErrorKind.INVALID_REQUEST, param)


def test_a_row_that_was_tampered_with_opens_nothing(opened: Open, tmp_path: Path) -> None:
    async def work() -> None:
        await opened().put(KEY, Quotas(requests_per_day=5))
        database = Database(
            tmp_path / "lmx.db", (SCHEMA,), HandClock(1_900_000_000.0), NullTelemetry()
        )
        await database.write(
            lambda link: link.exec_driver_sql("UPDATE quotas SET limits = '{\"requests_per_day\":'")
        )
        await database.close()
        bounds = opened().of(OWNER)
        assert bounds is not None
        assert {one.most for one in bounds.limits} == {1}

    asyncio.run(work())


def test_many_callers_take_no_more_memory_than_some(opened: Open) -> None:
    book = opened({TENANT: Quotas(requests_per_day=1)})
    for number in range(10_000):
        assert book.of(Principal(tenant="fleet", key=f"k{number}")) is not None
    assert len(book._bounds) <= 4096
