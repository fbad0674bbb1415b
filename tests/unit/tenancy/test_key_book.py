"""Making, replacing and ending keys, by one process and by several at once."""

import asyncio
import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal, Scope
from opta_lmx.tenancy.grants import Maker
from opta_lmx.tenancy.key_book import KeyBook
from opta_lmx.tenancy.keys import mint
from tests.support.asynchronous import in_loop
from tests.unit.tenancy.conftest import Home, bot

ADMIN = Maker(Principal(key="admin", scopes=frozenset({Scope.ADMIN})))


async def refused(call: "object") -> LmxError:
    assert asyncio.iscoroutine(call)
    with pytest.raises(LmxError) as caught:
        await call
    return caught.value


def states(book: KeyBook, home: Home) -> "dict[str, str]":
    rows = asyncio.run(book.rows(everything=True))
    return {row.id: row.state(home.clock.now_ms()) for row in rows}


@in_loop
async def test_no_file_holds_the_secret(home: Home) -> None:
    database = home.database()
    issued = await home.book(database).create(bot(), maker=None)
    secret = issued.secret.encode()
    await database.close()
    files = [path for path in home.path.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"lmx.db", "keys-required"}
    for path in files:
        assert secret not in path.read_bytes()
        assert secret[-43:] not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


@in_loop
async def test_an_older_file_that_others_may_read_is_closed_to_them(home: Home) -> None:
    path = home.path / "lmx.db"
    path.touch()
    path.chmod(0o644)
    await home.database().close()
    assert path.stat().st_mode & 0o777 == 0o600


@in_loop
async def test_only_the_first_key_is_the_first(home: Home) -> None:
    book = home.book()
    first, second = [await book.create(bot(name), maker=None) for name in ("a", "b")]
    assert (first.first, second.first) == (True, False)
    await book.revoke(first.row.id)
    await book.revoke(second.row.id)
    assert not (await book.create(bot("a"), maker=None)).first


@in_loop
async def test_a_name_is_taken_while_its_key_lives(home: Home) -> None:
    book = home.book(None, "config-key")
    configured = await refused(book.create(bot("config-key"), maker=None))
    assert (configured.kind, configured.code) == (ErrorKind.CONFLICT, "key_name_taken")
    first = await book.create(bot(), expires="10s", maker=None)
    taken = await refused(book.create(bot(), maker=None))
    assert (taken.code, taken.param) == ("key_name_taken", "name")
    assert first.row.id in taken.message
    home.clock.now += 10
    assert "expired" in (await refused(book.create(bot(), maker=None))).message
    await book.revoke("bot", named=True)
    assert (await book.create(bot(), maker=None)).row.owner == bot()


@in_loop
async def test_rotating_keeps_owner_note_and_end(home: Home) -> None:
    book = home.book()
    old = await book.create(bot(weight=3.0, models=("a*",)), expires="1h", note="n", maker=None)
    home.clock.now += 60
    new = await book.rotate("bot", maker=None, named=True)
    assert new.row.id != old.row.id
    assert (new.row.owner, new.row.note) == (old.row.owner, "n")
    assert new.row.expires_ms == old.row.expires_ms
    (living,) = await book.rows()
    assert living == new.row
    ended = (await book.rows(everything=True))[0]
    assert (ended.replaced_by, ended.state(home.clock.now_ms())) == (new.row.id, "replaced")
    assert (await book.rotate("bot", maker=None, named=True, expires="never")).row.ends_ms is None


@in_loop
async def test_what_cannot_be_rotated(home: Home) -> None:
    book = home.book()
    old = await book.create(bot(), expires="10s", maker=None)
    new = await book.rotate(old.row.id, grace="5s", maker=None)
    again = await refused(book.rotate(old.row.id, maker=None))
    assert again.code == "key_replaced"
    assert new.row.id in again.message
    assert (await refused(book.rotate("bot", maker=None))).code == "key_not_found"
    late = await refused(book.rotate(new.row.id, grace="31d", maker=None))
    assert late.param == "grace"
    home.clock.now += 10
    over = await refused(book.rotate(new.row.id, maker=None))
    assert (over.kind, over.param) == (ErrorKind.INVALID_REQUEST, "expires")
    renewed = await book.rotate(new.row.id, expires="1h", maker=None)
    await book.revoke(renewed.row.id)
    assert (await refused(book.rotate(renewed.row.id, maker=None))).code == "key_revoked"


def test_revoking_the_present_key_ends_those_in_grace(home: Home) -> None:
    book = home.book()

    async def scenario() -> list[str]:
        gone = await book.create(bot(), maker=None)
        first = await book.rotate(gone.row.id, maker=None)
        second = await book.rotate(first.row.id, grace="1d", maker=None)
        other = await book.create(bot("other"), maker=None)
        await book.revoke("bot", named=True)
        return [one.row.id for one in (gone, first, second, other)]

    gone, first, second, other = asyncio.run(scenario())
    assert states(book, home) == {
        gone: "replaced",
        first: "revoked",
        second: "revoked",
        other: "active",
    }


def test_revoking_a_replaced_key_ends_it_alone(home: Home) -> None:
    book = home.book()

    async def scenario() -> list[str]:
        old = await book.create(bot(), maker=None)
        new = await book.rotate(old.row.id, grace="1d", maker=None)
        await book.revoke(old.row.id)
        return [old.row.id, new.row.id]

    old, new = asyncio.run(scenario())
    assert states(book, home) == {old: "revoked", new: "active"}


@in_loop
async def test_revoking_again_changes_nothing(home: Home) -> None:
    book = home.book()
    issued = await book.create(bot(), maker=None)
    first = await book.revoke(issued.row.id)
    home.clock.now += 5
    assert await book.revoke(issued.row.id) == first
    assert (await refused(book.revoke("nobody", named=True))).kind is ErrorKind.NOT_FOUND


@in_loop
async def test_rotating_gives_nobody_what_they_lack(home: Home) -> None:
    book = home.book()
    for owner in (bot("scopes"), bot("models", scopes=ADMIN.principal.scopes)):
        issued = await book.create(owner, maker=None)
        maker = Maker(Principal(scopes=ADMIN.principal.scopes, models=("other",)))
        error = await refused(book.rotate(issued.row.id, maker=maker))
        assert error.kind is ErrorKind.FORBIDDEN
        assert issued.row in await book.rows(), "nothing was changed"
    assert (await refused(book.create(bot("new"), maker=ADMIN))).code == "scope_not_grantable"


def test_of_many_at_once_one_gets_the_name(home: Home) -> None:
    """Each thread is a process of its own as far as the database can tell, from its making on."""

    def make(place: int) -> str:
        book = home.book()
        try:
            issued = asyncio.run(book.create(bot("same" if place % 2 else f"n{place}"), maker=None))
        except LmxError as error:
            return error.code
        return issued.row.owner.key

    with ThreadPoolExecutor(8) as pool:
        results = sorted(pool.map(make, range(16)))
    assert results == sorted(["key_name_taken"] * 7 + ["same"] + [f"n{n}" for n in range(0, 16, 2)])


def test_the_database_itself_refuses_a_name_twice(home: Home) -> None:
    asyncio.run(home.book().create(bot(), maker=None))
    with contextlib.closing(sqlite3.connect(home.path / "lmx.db")) as database, database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(api_keys)")][1:]
        with pytest.raises(sqlite3.IntegrityError):
            database.execute(
                f"INSERT INTO api_keys (id, {', '.join(columns)}) "
                f"SELECT 'other', {', '.join(columns)} FROM api_keys"
            )


@in_loop
async def test_without_a_database_nothing_is_made(home: Home) -> None:
    (home.path / "lmx.db").write_bytes(b"no database" * 1000)
    book = home.book()
    error = await refused(book.create(bot(), maker=None))
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "store_unavailable")
    assert not (home.path / "keys-required").exists()


@in_loop
async def test_a_key_that_ends_grants_none_that_ends_later(home: Home) -> None:
    book = home.book()
    own = await book.create(bot("own"), expires="60s", maker=None)
    lasting = await book.create(bot("lasting"), maker=None)
    maker = Maker(own.row.owner, own.row.ends_ms)
    for call in (
        book.create(bot("new"), maker=maker),
        book.create(bot("new"), expires="61s", maker=maker),
        book.rotate(own.row.id, expires="never", maker=maker),
        book.rotate(own.row.id, expires="2m", maker=maker),
        book.rotate(lasting.row.id, maker=maker),
    ):
        error = await refused(call)
        assert (error.kind, error.code) == (ErrorKind.FORBIDDEN, "expiry_not_grantable")
    assert {row.id for row in await book.rows()} == {own.row.id, lasting.row.id}
    assert (await book.create(bot("new"), expires="60s", maker=maker)).row.ends_ms
    again = await book.rotate(own.row.id, maker=maker)
    assert again.row.ends_ms == own.row.ends_ms


@in_loop
async def test_without_a_key_only_the_first_is_made(home: Home) -> None:
    book, nobody = home.book(), Maker(Principal(), anonymous=True)
    first = await book.create(bot(), maker=nobody)
    assert first.first
    await book.revoke(first.row.id)
    error = await refused(book.create(bot("late"), maker=nobody))
    assert (error.kind, error.code) == (ErrorKind.UNAUTHENTICATED, "invalid_api_key")
    assert await book.rows() == []


@in_loop
async def test_a_name_that_is_taken_leaves_the_home_open(home: Home) -> None:
    book = home.book(None, "config-key")
    await refused(book.create(bot("config-key"), maker=None))
    assert not (home.path / "keys-required").exists()
    assert not home.ring().required


@in_loop
async def test_a_whole_text_in_place_of_an_id_is_never_repeated(home: Home) -> None:
    book = home.book()
    issued, strange = await book.create(bot(), maker=None), mint().secret
    for text in (strange, f"Bearer {strange}", strange[:-1]):
        for call in (book.revoke(text, named=True), book.rotate(text, maker=None)):
            error = await refused(call)
            assert error.code == "key_not_found"
            assert strange[-40:-1] not in error.message
    assert (await book.revoke(issued.secret)).id == issued.row.id
