"""Whose key is shown: those of the configuration, those in the database, a provider's tokens."""

import asyncio
import contextlib
import hmac
from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.store.database import Database
from opta_lmx.tenancy import key_rows, keys
from opta_lmx.tenancy.key_rows import Found, KeyRow, State
from opta_lmx.tenancy.marker import Marker
from opta_lmx.tenancy.tokens import Tokens

STALE_S = 30.0
"""How long keys go on as last read while the database cannot be: longer, a revoked one might."""
LOOK_S = 5.0
"""How long one look into the database may take."""
_NOBODY = b"0" * 64


class Known(msgspec.Struct, frozen=True):
    """One key as operators see it: whose it is, from where, and what has become of it.

    Those of the configuration have neither an id nor moments (UTC milliseconds).
    """

    owner: Principal
    source: Literal["config", "stored"] = "config"
    id: str | None = None
    state: State = "active"
    created_ms: int | None = None
    expires_ms: int | None = None
    replaced_ms: int | None = None
    replaced_by: str | None = None
    note: str = ""


def known(row: KeyRow, now_ms: int) -> Known:
    """A stored key as operators see it."""
    return Known(
        owner=row.owner,
        source="stored",
        id=row.id,
        state=row.state(now_ms),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        replaced_ms=row.replaced_ms,
        replaced_by=row.replaced_by,
        note=row.note,
    )


class Keyring:
    """Every key there is. What the database holds is read at construction, then by `refresh`.

    Args:
        fixed: keys of the configuration, each with its owner.
        database: holds the others, with the tables of `key_rows.SCHEMA`; None: there are none.
        clock: time.
        required: a key must be shown even though there is none yet.
        tokens: tells whose other texts are; where there may be some, a key is required.
    """

    def __init__(
        self,
        fixed: Sequence[tuple[str, Principal]],
        database: Database | None,
        clock: Clock,
        *,
        required: bool,
        tokens: Tokens | None = None,
    ) -> None:
        self._fixed = [(keys.digest(secret), owner) for secret, owner in fixed]
        self._database = database
        self._clock = clock
        self._marker = None if database is None else Marker(database.path)
        self._tokens = tokens
        self._required = required or bool(fixed) or tokens is not None
        self._rows: dict[str, KeyRow] = {}
        self._number: int | None = None
        self._read_at = clock.monotonic()
        self._reading = asyncio.Lock()
        self._followed = False
        self._ended: set[str] = set()
        if database is not None:
            self._begin(database)

    def _begin(self, database: Database) -> None:
        try:
            self._take(database.read_now(self._changed()))
        except LmxError:
            self._missed()
        else:
            self._keep_marker()

    def _keep_marker(self) -> None:
        """The database and the file must not differ on whether there were keys."""
        assert self._marker is not None
        if self._marker.is_set():
            self._required = True
        elif self._number:
            with contextlib.suppress(OSError):
                self._marker.set()

    @property
    def required(self) -> bool:
        """Whether callers must show a key: once true, also when the last one was revoked."""
        return self._required

    @property
    def stored(self) -> int:
        """How many keys in the database open the door now."""
        now_ms = self._clock.now_ms()
        if self._is_stale():
            return 0
        return sum(row.opens(now_ms) for row in self._rows.values())

    def owner(self, shown: str) -> Principal | None:
        """Whose key this is; None for one that is unknown, expired, revoked or replaced.

        Raises:
            LmxError: UNAVAILABLE `identity_provider_unavailable` for a token that may be good.
        """
        digest = keys.digest(shown)
        # All are compared, so that the time taken does not tell which one nearly fits.
        fits = [hmac.compare_digest(digest, one) for one, _ in self._fixed]
        if any(fits):
            return self._fixed[fits.index(True)][1]
        row = self._row(shown, digest)
        if row is None and self._tokens is not None:
            return self._tokens.owner(shown)
        return None if row is None else row.owner

    def ends_ms(self, shown: str) -> int | None:
        """When a key or token that opens the door ends, in UTC milliseconds; None for never."""
        row = self._row(shown, keys.digest(shown))
        if row is None and self._tokens is not None:
            return self._tokens.ends_ms(shown)
        return None if row is None else row.ends_ms

    def forget(self, row: KeyRow) -> None:
        """Let in nobody by a key that was ended here, whether or not a look succeeds.

        With an owner's present one end those it replaced, as in `key_rows.revoke`.
        """
        alone = row.replaced_ms is not None
        ended = [
            one.id
            for one in self._rows.values()
            if one.id == row.id or (not alone and one.owner.key == row.owner.key)
        ]
        # A look that is under way may still bring them.
        self._ended.update(ended, [row.id])
        self._rows = {key: one for key, one in self._rows.items() if key not in self._ended}

    def _row(self, shown: str, digest: bytes) -> KeyRow | None:
        row = None if self._is_stale() else self._rows.get(keys.parse(shown) or "")
        fit = hmac.compare_digest(digest, _NOBODY if row is None else row.hash.encode())
        return row if row and fit and row.opens(self._clock.now_ms()) else None

    def _is_stale(self) -> bool:
        """Whether looks, once begun, have failed for too long; a command never looks again."""
        return self._followed and self._clock.monotonic() - self._read_at > STALE_S

    def principals(self) -> list[Known]:
        """Every key that is not over: those of the configuration, then the stored ones by age."""
        now_ms = self._clock.now_ms()
        stored = [known(row, now_ms) for row in self._rows.values()]
        return [
            *(Known(owner) for _, owner in self._fixed),
            *(one for one in stored if one.state != "replaced"),
        ]

    async def refresh(self) -> None:
        """Take over what any process has changed; costs one small reading. Never raises LmxError.

        While the database cannot be read the keys stay as they were, for 30 s at most: also
        where no look ends any more. One look is given up after `LOOK_S`.
        """
        if self._tokens is not None:
            self._tokens.follow()
        if self._database is None:
            return
        self._followed = True
        try:
            async with asyncio.timeout(LOOK_S), self._reading:
                self._take(await self._database.read(self._changed()))
        except (LmxError, TimeoutError):
            self._missed()

    async def close(self) -> None:
        """End what fetches a provider's keys."""
        if self._tokens is not None:
            await self._tokens.close()

    def _changed(self) -> "partial[Found | None]":
        return partial(key_rows.changed, seen=self._number, now_ms=self._clock.now_ms())

    def _take(self, found: Found | None) -> None:
        self._read_at = self._clock.monotonic()
        if found is not None:
            self._rows = {row.id: row for row in found.rows if row.id not in self._ended}
            self._number = found.number
            self._required = self._required or found.number > 0

    def _missed(self) -> None:
        """Nothing could be read: who was let in by a stored key is soon no longer."""
        assert self._marker is not None
        self._required = self._required or self._marker.is_set()
        if self._clock.monotonic() - self._read_at > STALE_S:
            self._rows, self._number = {}, None
