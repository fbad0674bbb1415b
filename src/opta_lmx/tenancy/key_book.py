"""Keys are made, replaced and ended here, by operators' commands and routes alike."""

import asyncio
from collections.abc import Callable, Collection

import msgspec
from sqlalchemy import Connection

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.principal import Principal
from opta_lmx.store.database import Database, unavailable
from opta_lmx.tenancy import key_rows, keys
from opta_lmx.tenancy.durations import expiry_ms, span_s
from opta_lmx.tenancy.grants import Maker, check_expiry, check_grant, check_maker
from opta_lmx.tenancy.key_rows import KeyRow
from opta_lmx.tenancy.marker import Marker

MAX_GRACE_S = 30 * 86_400


class Issued(msgspec.Struct, frozen=True):
    """A key that was just made, with its text, which is kept nowhere.

    `first`: before it there was none, so callers need not have shown one. `replaced`: the one in
    whose place it stands, with the moment at which that ends.
    """

    row: KeyRow
    secret: str
    first: bool = False
    replaced: KeyRow | None = None


class KeyBook:
    """The keys in the database.

    Args:
        database: holds them.
        clock: time.
        taken: names that the configuration gives to keys.
        mask: takes keys out of a text.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        taken: Collection[str] = (),
        mask: Callable[[str], str] = str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._taken = frozenset(taken)
        self._mask = mask

    async def create(
        self, owner: Principal, *, expires: str = "never", note: str = "", maker: Maker | None
    ) -> Issued:
        """Make a key.

        Args:
            owner: whose, with all that it may do; `key` is its name.
            expires: when it ends, in the words of `durations.expiry_ms`.
            note: for operators.
            maker: who asks, and can grant no more than is theirs, whatever the tenant; an
                anonymous one makes the first key alone. None: the machine's owner.

        Raises:
            LmxError: INVALID_REQUEST naming a field, FORBIDDEN, CONFLICT `key_name_taken`,
                UNAUTHENTICATED `invalid_api_key`.
        """
        check_grant(owner, note)
        self._refuse_keys(name=owner.key, tenant=owner.tenant, note=note)
        now_ms = self._clock.now_ms()
        ends_ms = expiry_ms(expires, now_ms)
        if maker is not None:
            _check(maker, owner, ends_ms)
        minted, row = _new(owner, note, now_ms, ends_ms)

        def may_be_made(connection: Connection) -> bool:
            first = key_rows.changes(connection) == 0
            if not first and maker is not None and maker.anonymous:
                raise unauthenticated()
            self._refuse_taken(key_rows.by_name(connection, owner.key), owner.key, now_ms)
            return first

        def work(connection: Connection) -> bool:
            first = may_be_made(connection)
            key_rows.add(connection, row)
            return first

        # A key that is refused must not make the home ask for keys.
        await self._database.read(may_be_made)
        await self._mark()
        return Issued(row, minted.secret, first=await self._database.write(work))

    async def rotate(
        self,
        which: str,
        *,
        grace: str = "0",
        expires: str | None = None,
        maker: Maker | None,
        named: bool = False,
    ) -> Issued:
        """Give a key's owner another secret, under a new id.

        Args:
            which: id of the key.
            grace: how long the old one still opens the door (`10m`).
            expires: when the new one ends; None: when the old one would have.
            maker: as for `create`: the new secret is theirs to use.
            named: `which` may also be a name.

        Raises:
            LmxError: NOT_FOUND, FORBIDDEN, INVALID_REQUEST, or CONFLICT for a key that is over.
        """
        now_ms = self._clock.now_ms()
        until_ms = now_ms + _grace_s(grace) * 1000
        ends_ms = None if expires is None else expiry_ms(expires, now_ms)

        def work(connection: Connection) -> Issued:
            old = _find(connection, which, named=named)
            _refuse_over(old, now_ms, expires)
            kept_ms = old.expires_ms if expires is None else ends_ms
            if maker is not None:
                _check(maker, old.owner, kept_ms)
            minted, new = _new(old.owner, old.note, now_ms, kept_ms)
            key_rows.replace(connection, old, new, until_ms)
            ending = msgspec.structs.replace(old, replaced_ms=until_ms, replaced_by=new.id)
            return Issued(new, minted.secret, replaced=ending)

        return await self._database.write(work)

    async def revoke(self, which: str, *, named: bool = False) -> KeyRow:
        """End a key now, and with an owner's present one those that it replaced.

        Revoking one again changes nothing.

        Raises:
            LmxError: NOT_FOUND.
        """
        now_ms = self._clock.now_ms()

        def work(connection: Connection) -> KeyRow:
            row = _find(connection, which, named=named)
            if row.revoked_ms is not None:
                return row
            key_rows.revoke(connection, row, now_ms)
            return msgspec.structs.replace(row, revoked_ms=now_ms)

        return await self._database.write(work)

    async def rows(self, *, everything: bool = False) -> list[KeyRow]:
        """The keys that are not over, or all there ever were; the oldest first."""
        now_ms = self._clock.now_ms()
        if everything:
            return await self._database.read(key_rows.every)
        return await self._database.read(lambda one: key_rows.living(one, now_ms))

    def _refuse_keys(self, **texts: str) -> None:
        """Refuse what would be shown, and has a key in it. It is not repeated."""
        for param, text in texts.items():
            if self._mask(text) != text:
                raise invalid(f"There is a key in '{param}': it would be shown.", param=param)

    def _refuse_taken(self, holder: KeyRow | None, name: str, now_ms: int) -> None:
        if holder is None and name not in self._taken:
            return
        if holder is None:
            reason = "belongs to a key in the configuration"
        elif holder.state(now_ms) == "expired":
            reason = "belongs to a key that has expired; revoke it, or rotate it"
        else:
            reason = f"belongs to the key {holder.id}"
        raise LmxError(
            ErrorKind.CONFLICT, f"The name '{name}' {reason}.", code="key_name_taken", param="name"
        )

    async def _mark(self) -> None:
        """From before the first key is kept, its loss must not open the door."""
        self._database.check()
        try:
            await asyncio.to_thread(Marker(self._database.path).set)
        except OSError as error:
            raise unavailable(f"the home cannot be written to ({error.strerror})") from None


def unauthenticated() -> LmxError:
    """Build the error of who shows no good key where one is needed."""
    return LmxError(
        ErrorKind.UNAUTHENTICATED,
        "A valid API key is required: Authorization: Bearer KEY.",
        code="invalid_api_key",
    )


def _check(maker: Maker, owner: Principal, ends_ms: int | None) -> None:
    check_maker(maker.principal, owner)
    check_expiry(maker, ends_ms)


def _new(
    owner: Principal, note: str, now_ms: int, ends_ms: int | None
) -> tuple[keys.Minted, KeyRow]:
    minted = keys.mint()
    row = KeyRow(
        id=minted.id,
        hash=keys.digest(minted.secret).decode(),
        owner=owner,
        note=note,
        created_ms=now_ms,
        expires_ms=ends_ms,
    )
    return minted, row


def _grace_s(text: str) -> int:
    seconds = span_s(text, "grace")
    if seconds > MAX_GRACE_S:
        raise invalid("'grace' must be 30 days at most.", param="grace")
    return seconds


def _find(connection: Connection, which: str, *, named: bool) -> KeyRow:
    # Somebody may paste the whole text for the id.
    row = key_rows.by_id(connection, keys.parse(which.strip()) or which)
    if row is None and named:
        row = key_rows.by_name(connection, which)
    if row is None:
        # What was given is not repeated: it may be a secret.
        raise LmxError(ErrorKind.NOT_FOUND, "There is no such stored key.", code="key_not_found")
    return row


def _refuse_over(old: KeyRow, now_ms: int, expires: str | None) -> None:
    """A key that was revoked or replaced has no successor to give."""
    if old.revoked_ms is not None:
        raise LmxError(ErrorKind.CONFLICT, f"The key {old.id} is revoked.", code="key_revoked")
    if old.replaced_ms is not None:
        raise LmxError(
            ErrorKind.CONFLICT,
            f"The key {old.id} was replaced by {old.replaced_by}.",
            code="key_replaced",
        )
    if old.state(now_ms) == "expired" and expires is None:
        raise invalid(f"The key {old.id} has expired: say when the new one does.", param="expires")
