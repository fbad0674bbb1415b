"""Which quotas hold for whom: those of the configuration, and the stored ones in their place."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.principal import Principal, Quotas
from opta_lmx.store.database import Database
from opta_lmx.tenancy import quotas_rows
from opta_lmx.tenancy.grants import LABEL, MAX_COUNT
from opta_lmx.tenancy.quotas_rows import Found, Subject
from opta_lmx.tenancy.tokens_claims import is_owner
from opta_lmx.tenancy.windows import RESOURCES, SPAN_MS, Limit, Resource, Whose

_LABEL = re.compile(LABEL.removesuffix("$"))
_MAX_REMEMBERED = 4096
LOOK_S = 5.0
"""How long one look into the database may take."""


class Ceiling(msgspec.Struct, frozen=True):
    """How many requests of an owner may be in flight at once."""

    whose: Whose
    owner: str
    most: int


class Bounds(msgspec.Struct, frozen=True):
    """All limits of one caller: those of its key, then those of its tenant."""

    limits: tuple[Limit, ...]
    ceilings: tuple[Ceiling, ...] = ()

    def of(self, *resources: Resource) -> tuple[Limit, ...]:
        """The limits of some resources."""
        return tuple(limit for limit in self.limits if limit.resource in resources)


class Holding(msgspec.Struct, frozen=True):
    """Quotas as operators see them."""

    subject: Subject
    quotas: Quotas
    source: Literal["config", "stored"]


class QuotaBook:
    """Every quota there is. The stored ones are read at construction, then by `refresh`.

    Args:
        configured: quotas of the configuration.
        database: holds the stored ones, with the tables of `quotas_rows.SCHEMA`.
        clock: time.
    """

    def __init__(
        self, configured: Mapping[Subject, Quotas], database: Database, clock: Clock
    ) -> None:
        self._configured = dict(configured)
        self._database = database
        self._clock = clock
        self._stored: Mapping[Subject, Quotas] = {}
        self._number: int | None = None
        self._bounds: dict[tuple[str, str], Bounds | None] = {}
        self._reading = asyncio.Lock()
        try:
            self._take(database.read_now(self._changed()))
        except LmxError:
            # The log says why; what must be counted in the database is refused meanwhile.
            self._number = None

    def of(self, owner: Principal) -> Bounds | None:
        """What bounds a caller; None where nothing does."""
        who = (owner.tenant, owner.key)
        try:
            return self._bounds[who]
        except KeyError:
            if len(self._bounds) >= _MAX_REMEMBERED:
                self._bounds.clear()
            found = self._bounds[who] = self._bounds_of(owner)
            return found

    def holdings(self) -> list[Holding]:
        """All quotas in force, by whose they are."""
        found = {
            subject: Holding(subject, quotas, "config")
            for subject, quotas in self._configured.items()
        }
        found |= {
            subject: Holding(subject, quotas, "stored") for subject, quotas in self._stored.items()
        }
        return [found[subject] for subject in sorted(found)]

    def holding(self, subject: Subject) -> Holding | None:
        """The quotas of a key or tenant that are in force."""
        return next((one for one in self.holdings() if one.subject == subject), None)

    async def put(self, subject: Subject, quotas: Quotas) -> None:
        """Keep quotas in place of all that the subject had; they hold at once here.

        Raises:
            LmxError: INVALID_REQUEST naming the field; UNAVAILABLE.
        """
        check(subject, quotas)
        now_ms = self._clock.now_ms()
        await self._database.write(lambda link: quotas_rows.put(link, subject, quotas, now_ms))
        await self.refresh()

    async def clear(self, subject: Subject) -> bool:
        """Forget stored quotas, so that those of the configuration hold; whether there were any."""
        cleared = await self._database.write(lambda link: quotas_rows.remove(link, subject))
        await self.refresh()
        return cleared

    async def refresh(self) -> None:
        """Take over what any process has changed; costs one small reading. Never raises LmxError.

        While the database cannot be read, quotas stay as they were.
        """
        try:
            async with asyncio.timeout(LOOK_S), self._reading:
                self._take(await self._database.read(self._changed()))
        except (LmxError, TimeoutError):
            return

    def _changed(self) -> "partial[Found | None]":
        return partial(quotas_rows.changed, seen=self._number)

    def _take(self, found: Found | None) -> None:
        if found is not None:
            self._stored, self._number = found.quotas, found.number
            self._bounds = {}

    def _bounds_of(self, owner: Principal) -> Bounds | None:
        limits: list[Limit] = []
        ceilings: list[Ceiling] = []
        for subject in (Subject("key", owner.key), Subject("tenant", owner.tenant)):
            limits += self.windows_of(subject)
            quotas = self._quotas(subject)
            if quotas is not None and quotas.concurrency is not None:
                ceilings.append(Ceiling(subject.whose, subject.name, quotas.concurrency))
        return Bounds(tuple(limits), tuple(ceilings)) if limits or ceilings else None

    def windows_of(self, subject: Subject) -> list[Limit]:
        """What bounds a key or tenant in a minute and a day."""
        quotas = self._quotas(subject)
        return [] if quotas is None else [*limits_of(subject, quotas)]

    def _quotas(self, subject: Subject) -> Quotas | None:
        return self._stored.get(subject) or self._configured.get(subject)


def limits_of(subject: Subject, quotas: Quotas) -> Iterator[Limit]:
    """The windows that quotas bound."""
    for resource in RESOURCES:
        for span in SPAN_MS:
            most: int | None = getattr(quotas, f"{resource}_per_{span}")
            if most is not None:
                yield Limit(subject.whose, subject.name, resource, span, most)


def check(subject: Subject, quotas: Quotas) -> None:
    """Raise INVALID_REQUEST for a name or a limit that nobody can have."""
    of_token = subject.whose == "key" and is_owner(subject.name)
    if _LABEL.fullmatch(subject.name) is None and not of_token:
        raise invalid(
            f"The name of a {subject.whose} takes up to 64 letters, digits, '.', '_' and '-', and "
            "begins with one of the first two.",
            param="name",
        )
    given = {
        name: most for name, most in msgspec.structs.asdict(quotas).items() if most is not None
    }
    if not given:
        raise invalid("Give at least one limit; to have none, clear the quotas.")
    for name, most in given.items():
        if not 1 <= most <= MAX_COUNT:
            raise invalid(f"'{name}' must be at least 1.", param=name)


def not_found(subject: Subject) -> LmxError:
    """Build the error of who has no such quotas."""
    return LmxError(
        ErrorKind.NOT_FOUND,
        f"There are no stored quotas of the {subject.whose} '{subject.name}'.",
        code="quotas_not_found",
    )
