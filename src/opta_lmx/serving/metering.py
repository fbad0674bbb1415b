"""Quotas and usage as calls meet them: what is taken when, what is given back, what is told."""

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.principal import Principal, Quotas
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import Usage
from opta_lmx.store.database import Database
from opta_lmx.tenancy import quotas_rows, usage_rows, windows_sqlite
from opta_lmx.tenancy.quotas import Bounds, Ceiling, Holding, QuotaBook
from opta_lmx.tenancy.quotas_rows import Subject
from opta_lmx.tenancy.usage import Ledger
from opta_lmx.tenancy.usage_rows import Counts
from opta_lmx.tenancy.windows import (
    Level,
    Limit,
    MemoryWindows,
    Part,
    Resource,
    Taken,
    Want,
    Windows,
)
from opta_lmx.tenancy.windows_sqlite import SqliteWindows

SCHEMAS = (quotas_rows.SCHEMA, windows_sqlite.SCHEMA, usage_rows.SCHEMA)
"""The tables that all of this needs."""

_BUSY_RETRY_S = 1.0
_CODES: dict[Resource, str] = {
    "requests": "request_quota_exceeded",
    "prompt_tokens": "token_quota_exceeded",
    "output_tokens": "token_quota_exceeded",
    "agent_runs": "agent_run_quota_exceeded",
    "skill_calls": "skill_call_quota_exceeded",
}


class Metering:
    """Meters every caller that has quotas, and keeps the ledger of all.

    Args:
        quotas: what bounds whom.
        windows: what was used of late.
        ledger: what was used in all.
    """

    def __init__(self, quotas: QuotaBook, windows: Windows, ledger: Ledger) -> None:
        self.quotas = quotas
        self.windows = windows
        self.ledger = ledger
        self.taking: set[asyncio.Future[Taken]] = set()
        self._in_flight: Counter[tuple[str, str]] = Counter()

    def meter(self, owner: Principal) -> "Meter | None":
        """What counts one call of this owner; None where nothing bounds it."""
        bounds = self.quotas.of(owner)
        return None if bounds is None else Meter(self, bounds)

    async def take(self, owner: Principal, resource: Resource, amount: int = 1) -> None:
        """Take of a resource that is no call of a model: `agent_runs`, `skill_calls`.

        Raises:
            LmxError: RATE_LIMITED naming the window; UNAVAILABLE `quota_store_unavailable`.
        """
        bounds = self.quotas.of(owner)
        wants = [] if bounds is None else [Want(one, amount) for one in bounds.of(resource)]
        if wants and (taken := await self.windows.take(wants)).refused is not None:
            raise exceeded(taken)

    def record(self, owner: Principal, model: str, usage: Usage | None, *, failed: bool) -> None:
        """Note a call that has ended in the ledger; `usage` is None where none of it ran."""
        counts = Counts(requests=1, errors=int(failed))
        if usage is not None:
            counts.prompt_tokens = usage.prompt_tokens
            counts.cached_prompt_tokens = usage.cached_tokens
            counts.output_tokens = usage.completion_tokens
            counts.reasoning_tokens = usage.reasoning_tokens
        self.ledger.record(owner, model, counts)

    async def standing(self, one: Holding) -> Sequence[Level]:
        """The windows of quotas as they stand. Raises UNAVAILABLE `quota_store_unavailable`."""
        limits = self.quotas.windows_of(one.subject)
        return await self.windows.levels(limits) if limits else ()

    async def close(self) -> None:
        """Keep what was counted; takes under way come first, so that they can be given back."""
        while self.taking:
            await asyncio.wait(self.taking)
        await self.windows.close()
        await self.ledger.close()

    def enter(self, ceilings: Iterable[Ceiling]) -> None:
        """Count a request in flight. Raises RATE_LIMITED `concurrency_quota_exceeded`."""
        for one in ceilings:
            if self._in_flight[one.whose, one.owner] >= one.most:
                raise _too_many(one)
        for one in ceilings:
            self._in_flight[one.whose, one.owner] += 1

    def leave(self, ceilings: Iterable[Ceiling]) -> None:
        """Count a request in flight no more."""
        for one in ceilings:
            who = (one.whose, one.owner)
            self._in_flight[who] -= 1
            if self._in_flight[who] <= 0:
                del self._in_flight[who]


class Meter:
    """What one call takes of its owner's quotas.

    Args:
        metering: holds those of all.
        bounds: the owner's, as of the call's beginning.
    """

    def __init__(self, metering: Metering, bounds: Bounds) -> None:
        self._metering = metering
        self._bounds = bounds
        self._request: tuple[Part, ...] = ()
        self._prompt: tuple[Part, ...] = ()
        self._inside = False
        self._levels: dict[str, Level] = {}

    @property
    def counts_prompts(self) -> bool:
        """True where prompts are bounded, so that their exact length matters."""
        return bool(self._bounds.of("prompt_tokens"))

    @property
    def levels(self) -> Sequence[Level]:
        """The limits as this call saw them last; none before it has taken anything."""
        return [*self._levels.values()]

    async def enter(self) -> None:
        """Take one request; nothing is taken where anything is used up.

        Raises:
            LmxError: RATE_LIMITED naming what is; UNAVAILABLE `quota_store_unavailable`.
        """
        bounds = self._bounds
        self._metering.enter(bounds.ceilings)
        self._inside = True
        wants = [
            *(Want(limit, 1) for limit in bounds.of("requests")),
            # What is not known before is not to be used by who has none left of it.
            *(Want(limit, 0) for limit in bounds.of("prompt_tokens", "output_tokens")),
        ]
        try:
            self._request = await self._take(wants)
        except BaseException:
            self._leave()
            raise

    async def take_prompt(self, tokens: int, param: str) -> None:
        """Take the exact tokens of all prompts, in place of what was taken before.

        Raises:
            LmxError: INVALID_REQUEST `prompt_quota_exceeded` for more than can ever pass; as
                `enter`.
        """
        self._give_back_prompt()
        limits = self._bounds.of("prompt_tokens")
        if not tokens or not limits:
            return
        for limit in limits:
            if tokens > limit.most:
                raise invalid(
                    f"The prompt has {tokens} tokens; this {limit.whose} may use {limit.most} "
                    f"{_PER[limit.span]}.",
                    param=param,
                    code="prompt_quota_exceeded",
                )
        self._prompt = await self._take([Want(limit, tokens) for limit in limits])

    def used(self, tokens: int) -> None:
        """Count tokens of an answer, which were made already."""
        limits = self._bounds.of("output_tokens")
        if not tokens or not limits:
            return
        self._metering.windows.add([Want(limit, tokens) for limit in limits])
        for limit in limits:
            seen = self._levels.get(limit.window)
            used = tokens + (0 if seen is None else seen.used)
            self._levels[limit.window] = Level(limit, used, limit.span_ms)

    def end(self) -> None:
        """The call has ended; what it took stays taken. Idempotent."""
        self._request = self._prompt = ()
        self._leave()

    def give_back(self) -> None:
        """The call will not run: what it took is free again. Idempotent."""
        self._give_back_prompt()
        if self._request:
            self._metering.windows.give_back(self._request)
            self._request = ()
        self._leave()

    async def settle(self) -> None:
        """Return once what was counted is kept."""
        if self._bounds.of("output_tokens"):
            await self._metering.windows.settle()

    def _give_back_prompt(self) -> None:
        if self._prompt:
            self._metering.windows.give_back(self._prompt)
            self._prompt = ()

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self._metering.leave(self._bounds.ceilings)

    async def _take(self, wants: Sequence[Want]) -> tuple[Part, ...]:
        if not wants:
            return ()
        taking = asyncio.ensure_future(self._metering.windows.take(wants))
        self._metering.taking.add(taking)
        taking.add_done_callback(self._metering.taking.discard)
        try:
            # Counted is counted: who is cancelled meanwhile must know to give it back.
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._return)
            raise
        self._levels |= {level.limit.window: level for level in taken.levels}
        if taken.refused is not None:
            raise exceeded(taken)
        return taken.parts

    def _return(self, taking: "asyncio.Future[Taken]") -> None:
        if not taking.cancelled() and taking.exception() is None and taking.result().parts:
            self._metering.windows.give_back(taking.result().parts)


_PER = {"minute": "a minute", "day": "a day"}


def exceeded(taken: Taken) -> LmxError:
    """Build the error of who has used up a window: which, whose, and when to come back."""
    level = taken.refused
    assert level is not None
    limit, wait_s = level.limit, math.ceil(taken.wait_ms / 1000)
    return LmxError(
        ErrorKind.RATE_LIMITED,
        f"This {limit.whose} may use {_amount(limit)} and has {level.remaining} left. "
        f"Retry in {max(1, wait_s)} s.",
        code=_CODES[limit.resource],
        retry_after=taken.wait_ms / 1000,
    )


def _amount(limit: Limit) -> str:
    words = limit.resource.replace("_", " ")
    return f"{limit.most} {words} {_PER[limit.span]}"


def _too_many(ceiling: Ceiling) -> LmxError:
    return LmxError(
        ErrorKind.RATE_LIMITED,
        f"This {ceiling.whose} may have {ceiling.most} requests in flight, and has as many.",
        code="concurrency_quota_exceeded",
        retry_after=_BUSY_RETRY_S,
    )


class MeteringRules(msgspec.Struct, frozen=True):
    """Where use is counted (`sqlite` or `memory`), and for how many days the ledger is kept."""

    store: str
    usage_days: int


def open_metering(
    configured: Mapping[Subject, Quotas],
    rules: MeteringRules,
    database: Database,
    clock: Clock,
    telemetry: Telemetry,
) -> Metering:
    """Quotas and ledger of a home.

    Args:
        configured: quotas of the configuration.
        rules: see `MeteringRules`.
        database: with the tables of `SCHEMAS`.
        clock: time.
        telemetry: told when something cannot be written down.
    """
    in_memory = rules.store == "memory"
    windows = MemoryWindows(clock) if in_memory else SqliteWindows(database, clock, telemetry)
    ledger = Ledger(database, clock, telemetry, rules.usage_days)
    return Metering(QuotaBook(configured, database, clock), windows, ledger)
