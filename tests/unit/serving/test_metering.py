"""What a call takes of quotas: once, all or nothing, and back where nothing came of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Budgets, Principal, Quotas
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.core.types import Usage
from opta_lmx.serving.budgeting import COUNTED, Account, Budgeting
from opta_lmx.serving.metering import SCHEMAS, Metering, MeteringRules, open_metering
from opta_lmx.store.database import Database
from opta_lmx.tenancy.quotas_rows import Subject
from opta_lmx.tenancy.usage_rows import Query
from opta_lmx.tenancy.windows import Resource
from tests.support.clocks import HandClock

OWNER = Principal(tenant="fleet", key="bot")
OTHER = Principal(tenant="fleet", key="other")


class Bench:
    """Quotas of one key, and of its tenant."""

    def __init__(self, path: Path, store: str, key: Quotas, tenant: Quotas | None) -> None:
        self.clock = HandClock(1_900_000_000.0)
        self.database = Database(path / "lmx.db", SCHEMAS, self.clock, NullTelemetry())
        configured = {Subject("key", "bot"): key}
        if tenant is not None:
            configured[Subject("tenant", "fleet")] = tenant
        rules = MeteringRules(store, 400)
        self.metering = open_metering(configured, rules, self.database, self.clock, NullTelemetry())
        self.budgeting = Budgeting(self.clock, NullTelemetry())
        self.budgeting.metering = self.metering

    def account(self, owner: Principal = OWNER) -> Account:
        account = self.budgeting.account(owner)
        account.model = "m"
        return account

    async def used(self, resource: Resource, owner: Principal = OWNER) -> list[int]:
        bounds = self.metering.quotas.of(owner)
        assert bounds is not None
        return [one.used for one in await self.metering.windows.levels(bounds.of(resource))]


Work = Callable[[Bench], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture(params=["sqlite", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    def go(work: Work, key: Quotas, tenant: Quotas | None = None) -> None:
        async def main() -> None:
            bench = Bench(tmp_path, request.param, key, tenant)
            try:
                await work(bench)
            finally:
                await bench.metering.close()
                await bench.database.close()

        asyncio.run(main())

    return go


async def refusal(work: Awaitable[None]) -> LmxError:
    with pytest.raises(LmxError) as refused:
        await work
    return refused.value


def test_a_call_is_one_request_and_its_tokens(run: Run) -> None:
    async def work(bench: Bench) -> None:
        account = bench.account()
        await account.enter()
        await account.charge(30, "messages")
        account.end(Usage(30, 7, 4, 2), ran=True, failed=False)
        account.end(Usage(30, 7), ran=True, failed=False)
        account.give_back()
        await account.settle()
        assert await bench.used("requests") == [1, 1]
        assert await bench.used("prompt_tokens") == [30]
        assert await bench.used("output_tokens") == [7]
        (row,) = await bench.metering.ledger.report(Query())
        assert [*row.values()][1:] == ["fleet", "bot", "m", 1, 0, 30, 4, 7, 2]

    run(work, Quotas(5, None, None, 100, 50), Quotas(requests_per_day=9))


def test_key_and_tenant_are_charged_together_or_not_at_all(run: Run) -> None:
    async def work(bench: Bench) -> None:
        for _ in range(2):
            await bench.account(OTHER).enter()
        error = await refusal(bench.account().enter())
        assert (error.kind, error.code) == (ErrorKind.RATE_LIMITED, "request_quota_exceeded")
        assert "This tenant may use 2 requests a day" in error.message
        assert "other" not in error.message
        assert error.retry_after == 86_400
        assert await bench.used("requests") == [0, 2]

    run(work, Quotas(requests_per_minute=5), Quotas(requests_per_day=2))


def test_what_comes_to_nothing_costs_nothing(run: Run) -> None:
    async def work(bench: Bench) -> None:
        for failed in (False, True):
            account = bench.account()
            await account.enter()
            await account.charge(60, "messages")
            account.end(None, ran=False, failed=failed)
        account = bench.account()
        await account.enter()
        error = await refusal(account.charge(101, "messages"))
        assert (error.kind, error.code, error.param) == (
            ErrorKind.INVALID_REQUEST,
            "prompt_quota_exceeded",
            "messages",
        )
        account.give_back()
        assert await bench.used("requests") == [0]
        assert await bench.used("prompt_tokens") == [0]
        (row,) = await bench.metering.ledger.report(Query())
        assert (row["requests"], row["errors"], row["prompt_tokens"]) == (2, 1, 0)

    run(work, Quotas(requests_per_day=3, prompt_tokens_per_day=100))


def test_what_ran_is_paid_for_even_where_nothing_came_of_it(run: Run) -> None:
    async def work(bench: Bench) -> None:
        account = bench.account()
        await account.enter()
        await account.charge(60, "input")
        account.end(None, ran=True, failed=True)
        assert await bench.used("requests") == [1]
        assert await bench.used("prompt_tokens") == [60]

    run(work, Quotas(requests_per_day=3, prompt_tokens_per_day=100))


def test_counting_is_a_request_without_tokens(run: Run) -> None:
    async def work(bench: Bench) -> None:
        account = bench.account()
        await account.enter()
        account.end(COUNTED, ran=False, failed=False)
        assert await bench.used("requests") == [1]
        assert await bench.used("prompt_tokens") == [0]

    run(work, Quotas(requests_per_day=3, prompt_tokens_per_day=100))


def test_a_second_attempt_pays_in_place_of_the_first(run: Run) -> None:
    async def work(bench: Bench) -> None:
        account = bench.account()
        await account.enter()
        for tokens in (90, 100, 40):
            await account.charge(tokens, "input")
            assert await bench.used("prompt_tokens") == [tokens]

    run(work, Quotas(prompt_tokens_per_day=100))


def test_answers_may_pass_the_limit_once(run: Run) -> None:
    async def work(bench: Bench) -> None:
        for tokens in (9, 50):
            account = bench.account()
            await account.enter()
            account.end(Usage(1, tokens), ran=True, failed=False)
        error = await refusal(bench.account().enter())
        assert error.code == "token_quota_exceeded"
        assert "10 output tokens a minute and has 0 left" in error.message
        bench.clock.now += 62
        await bench.account().enter()

    run(work, Quotas(output_tokens_per_minute=10))


def test_who_has_no_place_takes_no_request(run: Run) -> None:
    async def work(bench: Bench) -> None:
        first, second = bench.account(), bench.account()
        await first.enter()
        error = await refusal(second.enter())
        assert (error.code, error.retry_after) == ("concurrency_quota_exceeded", 1.0)
        assert await bench.used("requests") == [1]
        first.end(COUNTED, ran=False, failed=False)
        first.give_back()
        await second.enter()
        assert (await refusal(bench.account().enter())).code == "concurrency_quota_exceeded"
        assert not second.counts_prompts

    run(work, Quotas(requests_per_day=9, concurrency=1))


def test_a_refused_request_leaves_its_place(run: Run) -> None:
    async def work(bench: Bench) -> None:
        first = bench.account()
        await first.enter()
        first.end(COUNTED, ran=False, failed=False)
        for _ in range(3):
            assert (await refusal(bench.account().enter())).code == "request_quota_exceeded"

    run(work, Quotas(requests_per_day=1, concurrency=1))


def test_who_is_cancelled_while_it_takes_gives_back(run: Run) -> None:
    async def work(bench: Bench) -> None:
        for _ in range(5):
            task = asyncio.ensure_future(bench.account().enter())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        # Five may have been counted by now; none of them for long.
        left = [1]
        deadline = time.monotonic() + 10
        while left != [0]:
            assert time.monotonic() < deadline, "what was cancelled is still counted"
            left = await bench.used("requests")

    run(work, Quotas(requests_per_day=9, concurrency=1))


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ("agent_runs", "agent_run_quota_exceeded"),
        ("skill_calls", "skill_call_quota_exceeded"),
    ],
)
def test_other_rooms_take_of_their_own(run: Run, resource: Resource, code: str) -> None:
    async def work(bench: Bench) -> None:
        metering: Metering = bench.metering
        await metering.take(OWNER, resource)
        await metering.take(OWNER, resource, 2)
        error = await refusal(metering.take(OWNER, resource))
        assert (error.kind, error.code) == (ErrorKind.RATE_LIMITED, code)
        await metering.take(Principal(), resource, 10**9)
        assert await bench.used(resource) == [3]

    limits: dict[str, Any] = {f"{resource}_per_day": 3}
    run(work, Quotas(**limits))


def test_a_key_without_quotas_asks_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, "sqlite", Quotas(requests_per_day=1), None)
        account = bench.account(OTHER)
        entering = account.enter()
        with pytest.raises(StopIteration):  # it ends without once waiting
            entering.send(None)
        charging = account.charge(10**9, "messages")
        with pytest.raises(StopIteration):
            charging.send(None)
        assert account.levels == ()
        account.end(Usage(1, 1), ran=True, failed=False)
        await bench.metering.close()
        await bench.database.close()

    asyncio.run(main())


def test_a_refused_quota_gives_the_budget_back(run: Run) -> None:
    async def work(bench: Bench) -> None:
        owner = Principal(tenant="fleet", key="bot", budgets=Budgets(prompt_tokens_per_minute=1000))
        first = bench.account(owner)
        await first.enter()
        await first.charge(80, "messages")
        second = bench.account(owner)
        await second.enter()
        error = await refusal(second.charge(30, "messages"))
        assert error.code == "token_quota_exceeded"
        state = bench.budgeting.state(owner)
        assert state is not None
        assert state.remaining == 920

    run(work, Quotas(prompt_tokens_per_day=100))
