"""The audit log: who did what, and what came of it. Rows are added and never changed."""

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
from sqlalchemy import Connection

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.store.database import Database
from opta_lmx.tenancy import audit_rows
from opta_lmx.tenancy.audit_refusals import OWNERS, STRANGERS, Refusals, in_words, network_of
from opta_lmx.tenancy.audit_rows import AuditRow, Entry, Verdict, Wanted

UNAVAILABLE = "audit_unavailable"
REFUSALS = "audit.refusals"
"""The action of the row that counts refusals without rows of their own."""
TELL_S = 60.0
"""How long refusals without rows of their own are counted before they are told."""
WRITE_S = 5.0
"""How long one row may take to be on the disk."""
MAX_TARGET = 200
_MAX_READ = 4096
_MAX_WORDS = {"who": 64, "tenant": 64, "address": 64, "request_id": 128, "action": 64, "code": 64}
_DAY_MS = 86_400_000
_LOOK_S = 3600.0
_REMOVED_AT_ONCE = 10_000
_RETRY_S = 5.0


class AuditLog:
    """The log of one home; several processes may write it.

    Args:
        database: holds it, with the tables of `audit_rows.SCHEMA`.
        clock: time.
        mask: takes secrets out of a text.
        keep_days: how long rows are kept; looked at once an hour, with the next row. None: for
            ever.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        mask: Callable[[str], str],
        keep_days: int | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._mask = mask
        self._keep_days = keep_days
        self._look_at = clock.monotonic()
        self._strangers = Refusals(clock, STRANGERS)
        self._owners = Refusals(clock, OWNERS)
        self._pause: asyncio.Future[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._closing = False

    async def append(self, entry: Entry) -> int:
        """Add a row; its sequence number, once it is on the disk.

        Raises:
            LmxError: UNAVAILABLE `audit_unavailable`. A row that took too long may still be
                written.
        """
        return await self._write(entry)

    async def refused(self, entry: Entry) -> bool:
        """Add a row for somebody who was turned away, or only count it; whether it was added.

        Raises:
            LmxError: as `append`.
        """
        if entry.tenant:
            admitted = self._owners.admit(f"{entry.tenant}/{entry.who}")
        else:
            admitted = self._strangers.admit(network_of(entry.address))
        if admitted:
            await self._write(entry)
        else:
            self._tell_in_a_minute()
        return admitted

    async def page(self, wanted: Wanted) -> list[AuditRow]:
        """Read rows, in their order. Raises LmxError UNAVAILABLE."""
        try:
            return await self._database.read(lambda one: audit_rows.page(one, wanted))
        except msgspec.ValidationError:
            raise LmxError(
                ErrorKind.UNAVAILABLE,
                "Rows of the audit log were changed by another program: opta-lmx audit verify "
                "says which.",
                code="audit_damaged",
            ) from None

    async def verify(self, expected: tuple[int, str] | None = None) -> Verdict:
        """Compute the whole chain anew. Raises LmxError UNAVAILABLE."""
        return await self._database.read(lambda one: audit_rows.verify(one, expected))

    async def close(self) -> None:
        """Write what was only counted so far."""
        self._closing = True
        if self._pause is not None:
            self._pause.cancel()
        if self._telling is not None:
            await self._telling

    def _tell_in_a_minute(self) -> None:
        """From the first refusal on that was only counted."""
        if self._telling is None and not self._closing:
            self._pause = asyncio.ensure_future(self._clock.sleep(TELL_S))
            self._telling = asyncio.create_task(self._tell_later())

    async def _tell_later(self) -> None:
        """Write what was only counted; as long as that fails, again a minute later."""
        # The pause is a future of its own, so that `close` ends a wait and never a write.
        while self._pause is not None:
            await asyncio.wait({self._pause})
            await self._tell(self._strangers, "addresses")
            await self._tell(self._owners, "keys")
            again = (self._strangers.untold or self._owners.untold) and not self._closing
            self._pause = asyncio.ensure_future(self._clock.sleep(TELL_S)) if again else None
        self._telling = None

    async def _tell(self, refusals: Refusals, what: str) -> None:
        counts = refusals.take()
        if not counts:
            return
        told = in_words(counts, what)
        try:
            await self._write(Entry(who="server", action=REFUSALS, target=told, outcome="refused"))
        except LmxError:
            refusals.give_back(counts)

    async def _write(self, entry: Entry) -> int:
        """Add a row, and before it remove what is too old; its sequence number."""
        work = partial(self._work, self._cleaned(entry), self._due())
        try:
            async with asyncio.timeout(WRITE_S):
                return await self._database.write(work)
        except (LmxError, TimeoutError):
            raise unavailable() from None

    def _work(self, entry: Entry, before_ms: int | None, connection: Connection) -> int:
        now_ms = self._clock.now_ms()
        if before_ms is not None:
            audit_rows.remove_before(connection, before_ms, now_ms, _REMOVED_AT_ONCE)
        return audit_rows.append(connection, entry, now_ms)

    def _due(self) -> int | None:
        """The moment before which rows are to be removed, where that is to be looked at now."""
        now = self._clock.monotonic()
        if self._keep_days is None or now < self._look_at:
            return None
        self._look_at = now + _LOOK_S
        return self._clock.now_ms() - self._keep_days * _DAY_MS

    def _cleaned(self, entry: Entry) -> Entry:
        texts = {
            name: one_line(self._mask(getattr(entry, name)[:_MAX_READ]))[:most]
            for name, most in _MAX_WORDS.items()
        }
        target = one_line(self._mask(entry.target[:_MAX_READ]))
        if len(target) > MAX_TARGET:
            target = target[: MAX_TARGET - 1] + "…"
        return msgspec.structs.replace(entry, **texts, target=target)


def one_line(text: str) -> str:
    """A text in which all that cannot be printed is escaped: line ends, half characters too."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def unavailable() -> LmxError:
    """Build the error of what is not done because it could not be written down."""
    return LmxError(
        ErrorKind.UNAVAILABLE,
        "The audit log cannot be written, and without it nothing is done here. The server's log "
        "says why.",
        code=UNAVAILABLE,
        retry_after=_RETRY_S,
    )
